"""Tokenizers and models as Hugging Face's transformers and peft describe them in a folder.

Nothing of a folder is executed, and nothing is downloaded.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sourcetrace.checkpoints.formats.model_folder import ModelFolder
from sourcetrace.checkpoints.parameter_names import ModelParameters
from sourcetrace.checkpoints.weights import check_weights
from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json
from sourcetrace.redaction import error_line
from sourcetrace.tasks.data.optional_library import optional_library

_CONFIG, _ADAPTER, _SETTINGS = "config.json", "adapter_config.json", "tokenizer_config.json"


def load_tokenizer(folder: str) -> Any:
    """Return the tokenizer of a folder; no code of it is run, and nothing is downloaded.

    Raises:
        InputError: If there is none, or its settings name files elsewhere.
    """
    if not Path(folder).is_dir():
        raise InputError(
            f"task.arguments.tokenizer: there is no folder {folder}; expected one that "
            "tokenizer.save_pretrained(folder) wrote. Nothing is downloaded."
        )
    _refuse_files_elsewhere(Path(folder))
    return _read("AutoTokenizer", folder, "tokenizer")


def read_config(folder: str) -> Any:
    """Return the configuration of a model.

    Raises:
        InputError: If a folder has none, or one of a model that transformers does not know.
    """
    if not (Path(folder) / _CONFIG).is_file():
        raise InputError(
            f"task.arguments.model: there is no {Path(folder) / _CONFIG}; expected a folder that "
            "save_pretrained of the model or its Trainer wrote. Nothing is downloaded. Of adapters "
            "alone, name the folder of the model below them, and theirs as adapter."
        )
    return _read("AutoConfig", folder, "model")


def _read(kind: str, folder: str, argument: str) -> Any:
    library = optional_library("transformers", f"task.arguments.{argument}")
    try:
        return getattr(library, kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of the library, which says what it misses in many ways
        raise _unreadable(argument, folder, error) from error


def model_of(config: Any, folder: str, adapter: str | None) -> nn.Module:
    """Return a language model in float32: untrained, or the trained one below untrained adapters.

    Args:
        config: Of the model.
        folder: Where it was read.
        adapter: Folder of LoRA adapters that are trained on it; by default the model's own, where
            there are any.
    """
    library = optional_library("transformers", "task.arguments.model")
    kind = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM"
    try:
        # An implementation of attention that the file names might be fetched code.
        model: nn.Module = getattr(library, f"AutoModelFor{kind}").from_config(
            config, trust_remote_code=False, attn_implementation=None
        )
    except Exception as error:
        raise _unreadable("model", folder, error) from error
    model = model.float()  # weights of less precision are copied into it as they are
    adapter = _adapter_of(folder, adapter)
    if adapter is None:
        return model
    # Checkpoints of adapters alone do not have them.
    below = ModelFolder(Path(folder)).found["model_state_dict"]
    state = ModelParameters(model).fill(below)
    check_weights(f"task.arguments.model: {folder}", state, model.state_dict())
    model.load_state_dict(state)
    return _adapted(model, adapter)


def files_digest(folder: str, adapter: str | None) -> str:
    """Return the SHA-256 of a model's description, and of the trained weights below adapters.

    Args:
        folder: As `model_of` takes it.
        adapter: As `model_of` takes it.
    """
    adapter = _adapter_of(folder, adapter)
    described: list[Any] = [read_optional_json(Path(folder) / _CONFIG)]
    if adapter is not None:
        described += [
            read_optional_json(Path(adapter) / _ADAPTER),
            ModelFolder(Path(folder)).sha256,
        ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _adapter_of(folder: str, adapter: str | None) -> str | None:
    return folder if adapter is None and (Path(folder) / _ADAPTER).is_file() else adapter


def _adapted(model: nn.Module, folder: str) -> nn.Module:
    """Return the model with untrained LoRA adapters."""
    settings = read_optional_json(Path(folder) / _ADAPTER)
    kind = settings.get("peft_type") if isinstance(settings, dict) else None
    if kind != "LORA":
        raise InputError(
            f"task.arguments.adapter: {Path(folder) / _ADAPTER} has the type {kind}; expected "
            "LORA. Write build_model() for adapters of other kinds."
        )
    library = optional_library("peft", "task.arguments.adapter")
    try:
        config = library.LoraConfig.from_pretrained(folder)
        config.inference_mode = False  # it would freeze them
        config.init_lora_weights = True  # others are computed from weights, or change them
        config.megatron_config = None  # it names a module to import
        adapted: nn.Module = library.get_peft_model(model, config, autocast_adapter_dtype=False)
    except Exception as error:
        raise _unreadable("adapter", folder, error) from error
    return adapted


def _unreadable(argument: str, folder: str, error: Exception) -> InputError:
    return InputError(
        f"task.arguments.{argument}: {folder} cannot be read: {error_line(error)} Expected what "
        "save_pretrained(folder) wrote, of a kind that the installed library knows; code in the "
        "folder is not run."
    )


def _refuse_files_elsewhere(folder: Path) -> None:
    """Refuse a tokenizer's settings that name a file out of its folder, which would be read."""
    settings = read_optional_json(folder / _SETTINGS)
    for key, text in _texts_in(settings):
        if key == "name_or_path":  # where it was once saved; nothing is read there
            continue
        # As the library opens it; what is no path of a file is a token, a template, …
        if os.path.isfile(text) and not Path(text).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"task.arguments.tokenizer: {key!r} in {folder / _SETTINGS} names {text}, a file "
                f"out of that folder; expected files in it. Remove the entry, or copy the file."
            )


def _texts_in(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Return every text in a JSON value with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _texts_in(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one, key)
