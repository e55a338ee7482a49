"""How fast pictures of the simulated tree of life are made, on one core.

    python benchmarks/simulate.py [--size 96] [--count 1000]

Prints CPU time, so other work on the machine does not count.
"""

import argparse
import time

from bioclip2_jax.prepare.simulated.individuals import draw_individuals, photograph
from bioclip2_jax.prepare.simulated.tree import grow_tree


def main() -> None:
    """Draws and encodes `--count` pictures spread over all species."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    species = grow_tree(0, 64)
    individuals = draw_individuals(0, species, 8 * options.count)["train"]
    chosen = individuals[:: len(individuals) // options.count][: options.count]
    started = time.process_time()
    for one in chosen:
        photograph(0, one, options.size)
    rate = len(chosen) / (time.process_time() - started)
    print(f"{rate:,.0f} images a second and core at {options.size} px")


if __name__ == "__main__":
    main()
