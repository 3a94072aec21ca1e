"""Learning histories: on disk, in host memory, on the devices."""
