"""What acts beside a trained model."""
