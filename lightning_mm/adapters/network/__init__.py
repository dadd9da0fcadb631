"""What has to be known about the network that is adapted."""
