"""From numbers to sentences: verdicts on forgetting, utility, cost and membership."""
