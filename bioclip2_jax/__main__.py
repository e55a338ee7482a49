"""`python -m bioclip2_jax` is `bioclip2`."""

from bioclip2_jax.cli import main

main()
