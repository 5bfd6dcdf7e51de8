"""Models as Hugging Face's transformers and peft describe them in a folder.

Nothing of a folder is executed, and nothing is downloaded.
"""

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

_CONFIG, _ADAPTER = "config.json", "adapter_config.json"


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
    library = optional_library("transformers", "task.arguments.model")
    try:
        return library.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of the library, which says what it misses in many ways
        raise _unreadable("model", folder, error) from error


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
    if adapter is None and (Path(folder) / _ADAPTER).is_file():
        adapter = folder
    if adapter is None:
        return model
    # Checkpoints of adapters alone do not have them.
    below = ModelFolder(Path(folder)).found["model_state_dict"]
    state = ModelParameters(model).fill(below)
    check_weights(f"task.arguments.model: {folder}", state, model.state_dict())
    model.load_state_dict(state)
    return _adapted(model, adapter)


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
        "save_pretrained(folder) wrote, of a model that the installed library knows; code in the "
        "folder is not run."
    )
