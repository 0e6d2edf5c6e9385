"""Moving latents along gradients: LatentOps' ODE with its operators and baselines, and ascent."""
