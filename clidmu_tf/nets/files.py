"""Networks from `.keras` files, which anybody may have written."""

import os
import zipfile

import keras

from clidmu_tf.errors import UserError


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Returns the network of a `.keras` file, without the code that one may hold.

    Args:
        path: The file.

    Raises:
        UserError: It holds none that Keras makes without code of others.
    """
    try:
        if not zipfile.is_zipfile(path):  # Keras would say that it is not there
            raise ValueError("it is no zip archive, as such files are")
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of any kind, for a file of anybody's
        reason = " ".join(str(error).split()).split(". ")[0]
        raise UserError(
            f"{path} cannot be read as a network ({reason}): give a .keras file whose "
            "layers are all Keras's or this package's, saved by Keras 3."
        ) from error
