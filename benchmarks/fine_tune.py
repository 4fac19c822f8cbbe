"""Fine-tunes a dual encoder with plain ``transformers``, to be unlearned with ``--model`` and ``--base``.

``subset`` takes a part of Flickr8k, ``base`` joins two pretrained encoders, ``train`` fine-tunes the base; with
``--without ids.txt`` it leaves the deleted photographs out, which is the true retrained model. No code of multidelete
is used, so that the result can be compared with its Retrain. The settings are those of its table ``[train]``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessorPil,
    VisionTextDualEncoderModel,
    get_cosine_schedule_with_warmup,
    set_seed,
)

SPLIT_FILE = "dataset_flickr8k.json"


def subset(args: argparse.Namespace) -> None:
    """Write a smaller split file with links to the images, and the ids of the photographs to delete."""
    draw = random.Random(args.seed)
    images = json.loads((args.data / SPLIT_FILE).read_text())["images"]
    chosen = []
    for split, count in (("train", args.train), ("val", args.val), ("test", args.test)):
        chosen += draw.sample([image for image in images if image["split"] == split], count)
    for image in chosen:
        image["sentences"] = image["sentences"][: args.captions]
        image["sentids"] = image["sentids"][: args.captions]
    args.out.mkdir(parents=True)
    (args.out / SPLIT_FILE).write_text(json.dumps({"images": chosen, "dataset": "flickr8k"}))
    (args.out / "images").symlink_to((args.data / "images").resolve())
    names = [image["filename"] for image in chosen if image["split"] == "train"]
    for seed in range(args.requests):
        deleted = random.Random(seed).sample(names, round(args.forget * len(names)))
        (args.out / f"ids-{seed}.txt").write_text("\n".join(deleted) + "\n")


def base(args: argparse.Namespace) -> None:
    """Join two pretrained encoders by seeded random projections."""
    set_seed(args.seed)
    vision = AutoModel.from_pretrained(args.vision, dtype=torch.float32)
    vision.config.hidden_size = vision.config.hidden_dim  # the name that the dual encoder expects
    text = AutoModel.from_pretrained(args.text, dtype=torch.float32)
    VisionTextDualEncoderModel(vision_model=vision, text_model=text).save_pretrained(args.out)
    AutoTokenizer.from_pretrained(args.text, model_max_length=40).save_pretrained(args.out)
    CLIPImageProcessorPil(
        size={"shortest_edge": args.size},
        crop_size={"height": args.size, "width": args.size},
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    ).save_pretrained(args.out)


def train(args: argparse.Namespace) -> None:
    """Fine-tune a base with the loss of the model itself, and save it."""
    set_seed(args.seed)
    model = VisionTextDualEncoderModel.from_pretrained(args.base).train()
    processor = CLIPImageProcessorPil.from_pretrained(args.base)
    tokenizer = AutoTokenizer.from_pretrained(args.base)

    without = set(args.without.read_text().split()) if args.without else set()
    images = json.loads((args.data / SPLIT_FILE).read_text())["images"]
    images = [image for image in images if image["split"] == "train" and image["filename"] not in without]
    pixels = {}
    for image in images:
        picture = Image.open(args.data / "images" / image["filename"]).convert("RGB")
        pixels[image["filename"]] = processor(picture, return_tensors="pt")["pixel_values"][0]
    pairs = [(image["filename"], sentence["raw"]) for image in images for sentence in image["sentences"]]

    def collate(batch: list[tuple[str, str]]) -> dict[str, Tensor]:
        tokens = tokenizer([text for _, text in batch], padding=True, truncation=True, return_tensors="pt")
        return {"pixel_values": torch.stack([pixels[name] for name, _ in batch]), **tokens}

    loader = DataLoader(pairs, args.batch_size, shuffle=True, collate_fn=collate, drop_last=True)  # type: ignore[arg-type]
    steps = args.epochs * len(loader)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(args.warmup * steps), steps)
    for epoch in range(args.epochs):
        total = 0.0
        for batch in loader:
            loss = model(**batch, return_loss=True).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1} of {args.epochs}: training loss {total / len(loader):.3f}", flush=True)
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


def main() -> None:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("subset", help=subset.__doc__)
    command.set_defaults(run=subset)
    command.add_argument("data", type=Path, help="folder with dataset_flickr8k.json and images/")
    command.add_argument("out", type=Path)
    for split, count in (("train", 1000), ("val", 200), ("test", 300)):
        command.add_argument(f"--{split}", type=int, default=count, help="number of photographs")
    command.add_argument("--captions", type=int, default=5, help="captions of each photograph")
    command.add_argument("--forget", type=float, default=0.05, help="share of the training photographs to delete")
    command.add_argument("--requests", type=int, default=3, help="number of seeded requests, ids-0.txt, ids-1.txt, ...")
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser("base", help=base.__doc__)
    command.set_defaults(run=base)
    command.add_argument("vision", help="folder of the vision encoder")
    command.add_argument("text", help="folder of the text encoder and its tokenizer")
    command.add_argument("out", type=Path)
    command.add_argument("--size", type=int, default=128, help="side of the pictures")
    command.add_argument("--seed", type=int, default=0)

    command = commands.add_parser("train", help=train.__doc__)
    command.set_defaults(run=train)
    command.add_argument("base", type=Path, help="folder that the command base wrote")
    command.add_argument("data", type=Path, help="folder with dataset_flickr8k.json and images/")
    command.add_argument("out", type=Path)
    command.add_argument("--without", type=Path, help="text file with the file names to leave out, one in each line")
    command.add_argument("--epochs", type=int, default=10)
    command.add_argument("--batch-size", type=int, default=128)
    command.add_argument("--learning-rate", type=float, default=5e-4)
    command.add_argument("--weight-decay", type=float, default=0.02)
    command.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    command.add_argument("--clip", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=0)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
