"""The command `clidmu-tf`, which `train.py` is as well.

It stands beside the package, which imports TensorFlow at once, unless it finds this
module loaded: the command looks at its flags first.
"""


def main():
    """Does what the command line says."""
    from clidmu_tf.runs import cli

    cli.main()


if __name__ == "__main__":
    main()
