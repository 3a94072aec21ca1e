"""What a run costs, counted or compiled for devices that need not be there."""
