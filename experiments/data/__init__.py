"""What is learned from: points of the plane, images, photographs, populations."""
