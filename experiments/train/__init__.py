"""Train, sample and judge a flow-matching model."""
