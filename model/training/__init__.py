"""How the built-in model is trained, evaluated and exported. Nothing that serves imports it."""
