"""The same jobs done by other libraries, in the way that each recommends. Extra `peers`."""
# pyright: reportMissingImports=false
# Only the extra `peers` installs torch and torchcfm.

from collections.abc import Callable


def torchcfm_training(
    *, exact: bool, batch: int, width: int, rate: float
) -> Callable[[int], float]:
    """Training by torchcfm: its matcher, its three-layer network, torch's Adam.

    Flow matching of a Gaussian onto eight Gaussians of the plane. Returns a function that
    trains from scratch for that many steps and returns the last loss.
    """
    import torch
    from torchcfm.conditional_flow_matching import (
        ConditionalFlowMatcher,
        ExactOptimalTransportConditionalFlowMatcher,
    )
    from torchcfm.models.models import MLP

    kind = ExactOptimalTransportConditionalFlowMatcher if exact else ConditionalFlowMatcher
    matcher = kind(sigma=0.0)
    angles = torch.arange(8) * (torch.pi / 4)
    centres = 5 * torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)

    def run(steps: int) -> float:
        torch.manual_seed(0)
        model = MLP(dim=2, time_varying=True, w=width)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        loss = torch.zeros(())
        for _ in range(steps):
            optimizer.zero_grad()
            x0 = torch.randn(batch, 2)
            x1 = centres[torch.randint(8, (batch,))] + torch.randn(batch, 2)
            t, xt, velocity = matcher.sample_location_and_conditional_flow(x0, x1)[:3]
            loss = torch.mean((model(torch.cat([xt, t[:, None]], dim=-1)) - velocity) ** 2)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run
