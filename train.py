"""Trains, tunes, evaluates or exports a classifier from noisy labels.

    python train.py --flagfile=configs/digits.cfg

Where the package is installed, `clidmu-tf` is the same command; its inside is
`clidmu_tf/runs/cli.py`.
"""

from clidmu_tf_command import main

if __name__ == "__main__":
    main()
