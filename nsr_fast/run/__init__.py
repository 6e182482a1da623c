"""What a run writes about itself: its metrics, its report."""
