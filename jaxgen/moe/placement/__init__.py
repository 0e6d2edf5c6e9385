"""Where experts lie: planning, its costs, policies, moving weights, and a model of the time it takes."""
