"""What a study will cost, beforehand: its jobs, measured unit costs, and what follows from both."""
