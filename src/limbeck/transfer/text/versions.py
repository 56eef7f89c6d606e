"""The versions of the functions whose rows `datasets` keeps in its cache, so that rows of older code are not used.

A test hashes what the functions return. Where it fails, results have changed: give the function the next version.
What this file does not know: the functions.
"""

import tokenizers
import transformers

TOKENISE = 5
PACK = 2
ENCODE = 2
PAIRS = 1


def cache_version(number: int) -> str:
    """What rows depend on beside the arguments: the version of the function and of the libraries that it calls."""
    return f"{number}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
