"""`pillow_guard`, the context in which Pillow reads images for the codec."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from dkic.coding.container import MAX_PIXELS
from dkic.coding.image_formats import format_names
from dkic.errors import DkicError
from dkic.output_file import reason

_lock = threading.Lock()
_users = 0
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def pillow_guard(name: str) -> Iterator[None]:
    """Lets Pillow read up to MAX_PIXELS, and raises its errors as DkicError that begins with `name`.

    Pillow's limit against decompression bombs is one number for the process: it warns above 89 million pixels and fails above
    twice that, which dkic codes. Its warnings about odd metadata are suppressed: dkic does not use them. Several threads may be
    inside at once; the last one restores the limit and the warnings.
    """
    global _users
    with _lock:
        if _users == 0:
            _restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _restore.enter_context(warnings.catch_warnings())
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _users += 1
    try:
        yield
    except DkicError:
        raise
    except Image.DecompressionBombError as error:
        raise DkicError(f"{name}: the image must have at most {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise DkicError(
            f"{name}: not a {format_names()} image, or its header is damaged; convert it or get an undamaged file"
        ) from error
    except Exception as error:
        # Pillow's readers raise anything on damaged files: SyntaxError, struct.error, MemoryError ...
        raise DkicError(f"{name}: can't be read as an image ({reason(error)})") from error
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _restore.close()
