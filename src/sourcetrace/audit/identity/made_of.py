"""What a result was made of."""

import ast
import hashlib
import importlib
import inspect


def code_digest(class_path: str) -> str:
    """Return the digest of the code of a class's module, its comments apart.

    What other modules hold, it cannot see.
    """
    module = importlib.import_module(class_path.rsplit(".", 1)[0])
    try:
        code = ast.dump(ast.parse(inspect.getsource(module)))
    except (OSError, TypeError):  # a compiled module has no source
        code = ""
    return hashlib.sha256(code.encode()).hexdigest()
