"""Low-rank adapters (LoRA) of peft: brought with a model, or added to one for the time of unlearning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from multidelete.utils.errors import InputError, did_you_mean
from multidelete.utils.randomness import seeded

ADAPTER_FILE = "adapter_config.json"
ALL_LINEAR = "all-linear"


class LowRank(BaseModel):
    r"""Low-rank matrices added to linear layers, which change instead of their weights [1]_.

    A layer computes :math:`W x + \frac{\alpha}{r} B A x`; B is 0 at the beginning. After unlearning the product is
    added to the weights, so that the model has the same layers as before.

    Args:
        rank: Rank r of the matrices.
        alpha: Scale α of their product; twice the rank by default.
        targets: ``"all-linear"``, or the last parts of the names of linear layers (``["q_proj", "v_proj"]``); those in
            the method's scope are taken.

    References:
        .. [1] Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: int = Field(default=8, ge=1)
    alpha: int | None = Field(default=None, ge=1)
    targets: str | tuple[str, ...] = ALL_LINEAR

    def layers(self, model: Any, scope: str) -> list[str]:
        """Names of the layers of a model that get matrices.

        Raises:
            InputError: There are none, the model has an adapter already, or peft is not installed.
        """
        library()
        if model.adapter:
            raise InputError("the model is an adapter of peft, in which every method works; leave method.lora out")
        moving = model.parameters_of(scope)
        linear = [
            name
            for name, module in model.named_modules()
            if type(module) is nn.Linear and f"{name}.weight" in moving  # subclasses use the weight in their own way
        ]
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        chosen = {
            target: [name for name in linear if target == ALL_LINEAR or f".{name}".endswith(f".{target}")]
            for target in targets
        }
        if empty := [target for target, names in chosen.items() if not names]:
            known = sorted({last for name in linear if not (last := name.rpartition(".")[2]).isdigit()})
            there = f"it has {', '.join(known)}" if known else "it has no linear layer"
            raise InputError(
                f"method.lora.targets: scope '{scope}' of this {model.name} model has no layer '{empty[0]}'; "
                f"{there}{did_you_mean(empty[0], known)}"
            )
        return list(dict.fromkeys(name for names in chosen.values() for name in names))

    def add(self, model: Any, scope: str, seed: int) -> None:
        """Add matrices to a model in place; only they change from now on."""
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha or 2 * self.rank, target_modules=self.layers(model, scope)
        )
        with seeded(seed, "low-rank matrices"):
            inject_adapter_in_model(config, model)
        del model.peft_config
        model.adapter = adapter_names(model)


def merge(model: Any) -> None:
    """Add the low-rank matrices of :meth:`LowRank.add` to the weights of their layers, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    model.adapter = frozenset()


def library() -> Any:
    """The package peft.

    Raises:
        InputError: It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("adapters need the package peft: pip install 'multidelete[peft]'") from error
    return peft


def adapter_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of an adapter in a model, trainable or not."""
    return frozenset(name for name, _ in model.named_parameters() if ".lora_" in name or ".modules_to_save." in name)


def base_model(model: Any) -> Any:
    """The model of ``transformers`` in a peft model; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of peft."""
    return (folder / ADAPTER_FILE).is_file()


def base_of(folder: Path) -> str:
    """Folder or hub id of the model that an adapter belongs to; a relative path starts here or at the adapter.

    Raises:
        InputError: The adapter does not name it, or is no LoRA.
    """
    path = folder / ADAPTER_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        kind, base = fields["peft_type"], fields["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: expected peft_type and base_model_name_or_path") from error
    if kind != "LORA":
        raise InputError(f"{path} is of an adapter of type {kind!r}; supported is LORA")
    if not base:
        raise InputError(f"{path} does not name its base; write its folder or hub id to base_model_name_or_path")
    candidates = [Path(base), folder / base, folder.parent / base]
    return str(next((path.resolve() for path in candidates if path.is_dir()), base))


def read_adapter(model: Any, folder: Path) -> tuple[Any, str]:
    """The peft model of a base and an adapter, and the type in which the adapter's weights are stored.

    Args:
        model: The base, changed in place.
        folder: Folder of the adapter.
    """
    peft = library()
    weights = peft.utils.load_peft_weights(str(folder), device="cpu")  # a .bin with weights_only
    with _without_warnings():
        adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    adapted.active_peft_config.base_model_name_or_path = base_of(folder)  # valid from other folders too
    return adapted, str(next(iter(weights.values())).dtype).removeprefix("torch.")


def fresh_adapter(model: Any, fields: Mapping[str, Any]) -> Any:
    """The peft model of a base and a new adapter with the settings of another one."""
    peft = library()
    settings = {**fields, "inference_mode": False, "base_model_name_or_path": None}
    with _without_warnings():
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    adapted.active_peft_config.base_model_name_or_path = fields["base_model_name_or_path"]
    return adapted


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Context without warnings of peft about its own use of ``transformers``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
