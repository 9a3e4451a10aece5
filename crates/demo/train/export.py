"""Rounds a trained checkpoint to bf16 and puts it where the crate embeds it.

    export.py RUN ../weights
"""

import sys

import checkpoint

if __name__ == "__main__":
    checkpoint.export_bf16(sys.argv[1], sys.argv[2])
