"""Moving latents along gradients: ascent now, ODE operators on text later."""
