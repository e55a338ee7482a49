"""One update, what goes into it and where it runs; the program is `bioclip2_jax.train`."""
