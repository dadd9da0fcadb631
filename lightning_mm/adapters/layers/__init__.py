"""What has to be known about the layers that are adapted."""
