"""Commands that train and unlearn: demo, train, unlearn."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidelete.cli.base import (
    DATA,
    NOTHING,
    REQUEST,
    Given,
    Out,
    Overrides,
    Precision,
    Processor,
    Resume,
    Seed,
    Tracker,
    demo_names,
    demo_recipe,
    open_engine,
    options,
    set_values,
)
from multidelete.utils.errors import InputError, reason

if TYPE_CHECKING:
    from multidelete.recipe import Recipe

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n`multidelete demo`\n\n`multidelete demo --seed 1 --out runs/demo-1`\n\n"
    "`multidelete demo --task entailment method.alpha=0.5`\n\n`multidelete demo --all-tasks --out runs/tasks`"
)
def demo(
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="retrieval, entailment, reasoning or graph_text.")] = "retrieval",
    all_tasks: Annotated[
        bool, typer.Option("--all-tasks", help="Run all tasks, each in a subfolder of --out.")
    ] = False,
    seed: Seed = None,
    out: Out = Path("runs/demo"),
    resume: Resume = False,
    precision: Precision = None,
    tracker: Tracker = None,
) -> None:
    """Train a small model on generated data, delete a part of the data, and write a report, within minutes."""
    from multidelete.recipe import load

    given = {key: value for key, value in (("seed", seed), ("precision", precision)) if value is not None}
    folders = {name: out / name for name in demo_names()} if all_tasks else {task: out}
    recipes = {name: load(demo_recipe(name), overrides or [], given) for name in folders}
    for name, folder in folders.items():
        if not resume:
            _make_room(recipes[name], folder)
        _run(recipes[name], folder, resume, tracker)


@app.command(
    epilog="Examples:\n\n`multidelete train recipes/flickr8k-albef-multidelete.toml --out models/flickr8k`\n\n"
    "`multidelete train recipes/flickr8k-albef-multidelete.toml train.epochs=2 --out models/quick`"
)
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML).")],
    overrides: Overrides = None,
    out: Out = Path("runs/original"),
    seed: Seed = None,
    precision: Precision = None,
    tracker: Tracker = None,
) -> None:
    """Train the original model of a recipe and write it to a folder."""
    from multidelete.recipe import load
    from multidelete.store.models import get_or_train_original, save_model

    loaded = load(recipe, [*(overrides or []), *set_values(seed=seed, precision=precision)])
    if loaded.original is not None:
        raise InputError(f"{recipe} has a trained model ('original'); there is nothing to train")
    check_new(out)
    with open_engine(loaded, True, tracker, out) as engine:
        trained = get_or_train_original(loaded, loaded.dataset(), engine)
    save_model(trained.model, out, trained.training)
    typer.echo(f"model written to {out}")


@app.command(
    epilog="Examples:\n\n`multidelete convert ALBEF_4M.pth --out models/albef`\n\n"
    "`multidelete convert open_clip_pytorch_model.bin --out models/clip`\n\n"
    "`multidelete convert ve.pth --labels contradiction,neutral,entailment --tokenizer bert --out models/ve`"
)
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint file of ALBEF (.pth), open_clip or CLIP.")],
    out: Out = Path("models/converted"),
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Folder or hub id of its tokenizer; by default BERT's or CLIP's.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Classes in the order of its head, separated by commas.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Side of ALBEF's images in pixels, if not its own.")
    ] = None,
    quick_gelu: Annotated[
        bool, typer.Option("--quick-gelu", help="CLIP's activation: that of OpenAI's weights and of -quickgelu models.")
    ] = False,
) -> None:
    """Convert an official checkpoint of ALBEF, or of CLIP with a ViT, to a model folder; no code in it is run."""
    from multidelete.models.convert import convert

    check_new(out)
    names = [each.strip() for each in labels.split(",")] if labels else []
    convert(source, out, tokenizer, labels=names, image_size=image_size, quick_gelu=quick_gelu)
    typer.echo(f"model written to {out}")


@app.command(
    epilog="Examples:\n\n`multidelete unlearn recipes/flickr8k-albef-multidelete.toml --out runs/flickr8k`\n\n"
    "`multidelete unlearn --model models/mine --data photos --forget ids.txt --method multidelete --scope fusion`\n\n"
    "`multidelete unlearn --model clip-finetuned --base clip --data photos --forget ids.txt train.epochs=5`\n\n"
    "`multidelete unlearn recipes/flickr8k-albef-multidelete.toml forget.fraction=0.05 method.scope=all`"
)
@options(**DATA, **REQUEST)
def unlearn(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Recipe (TOML), unless --model, --data and --forget are given."),
    ] = None,
    overrides: Overrides = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Trained model: a folder of multidelete or transformers, or a hub id."),
    ] = None,
    processor: Processor = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Model that --model was fine-tuned from; Retrain starts from it.")
    ] = None,
    given: Given = NOTHING,
    method: Annotated[str | None, typer.Option("--method", help="See `multidelete list methods`.")] = None,
    scope: Annotated[str | None, typer.Option("--scope", help="all, fusion, vision or text.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write an unlearned adapter (peft) merged into its base.")
    ] = False,
    retrain: Annotated[
        bool | None,
        typer.Option("--retrain/--no-retrain", help="Train Retrain, the reference of all comparisons (slow)."),
    ] = None,
    retrained: Annotated[
        str | None,
        typer.Option("--retrained", metavar="<path>", help="Model that was trained without what must go, as Retrain."),
    ] = None,
    seed: Seed = None,
    precision: Precision = None,
    tracker: Tracker = None,
    out: Out = Path("runs/unlearn"),
    resume: Resume = False,
) -> None:
    """Make a model forget examples of its training data, and evaluate forgetting and utility."""
    from multidelete.recipe import is_fine_tuned, load, merged

    if retrained is not None and retrain is not None:
        raise InputError("--retrained brings Retrain, and --retrain or --no-retrain says whether to train it")
    words = list(overrides or [])
    path = None
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        words.insert(0, recipe)
    elif recipe is not None:
        path = Path(recipe)
    asked = given.forget()
    values: dict[str, Any] = {}
    if path is None:
        named = (("--model", model), ("--data", given.values["data"]), ("--forget", asked))
        missing = [name for name, value in named if value is None]
        if missing and not (given.has_data and missing == ["--data"]):
            raise InputError(f"without a recipe, {', '.join(missing)} must be given (see 'multidelete unlearn --help')")
    if model is not None:
        values["original"] = str(model)
    if processor is not None:
        values["processor"] = str(processor)
    if base is not None:
        values["start"] = str(base)
    if merge:
        values["merge"] = True
    if given.has_data:
        values["data"] = given.data()
    if asked is not None:
        values["forget"] = asked
    if method is not None:
        values["method"] = {"name": method}
    if scope is not None:
        values = merged(values, {"method": {"scope": scope}})
    reference = retrain if retrained is None else retrained
    values |= {k: v for k, v in (("seed", seed), ("retrain", reference), ("precision", precision)) if v is not None}
    if model is not None and base is None and reference is None and path is None and is_fine_tuned(model):
        typer.echo(
            "no reference: Retrain and membership attacks need --base, what the model was fine-tuned from", err=True
        )
        values["retrain"] = False
    if path is None:
        values = merged({"method": {"name": "multidelete"}}, values)
    loaded = load(path, words, options=values)
    _run(loaded, out, resume, tracker)


@app.command(
    epilog="Examples:\n\n`multidelete push runs/request me/clip-unlearned --private`\n\n"
    "`HF_TOKEN=... multidelete push runs/request/model me/clip-unlearned`"
)
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, or of a model.")],
    repository: Annotated[str, typer.Argument(metavar="NAME/REPOSITORY", help="Repository on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
) -> None:
    """Upload an unlearned model with its model card to the Hugging Face hub; nothing else of the run is sent."""
    from huggingface_hub import HfApi

    from multidelete.models.folder import model_folder, read_config

    model = folder / "model" if (folder / "model").is_dir() else model_folder(folder)
    read_config(model)  # refuses what is no model
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=model, commit_message="Upload an unlearned model")
    except Exception as error:  # huggingface_hub and its transport raise many kinds
        why = f"{reason(error)} (log in with hf auth login)"
        raise InputError(f"'{model}' was not uploaded to {repository}: {why}") from error
    typer.echo(f"model uploaded to {url}")


def check_new(out: Path) -> None:
    """Check that a folder can be written and is new or empty."""
    from multidelete.runs.record import check_writable
    from multidelete.utils.files import is_empty

    check_writable(out)
    if not is_empty(out):
        raise InputError(f"--out '{out}' is not empty; choose a new folder for the model")


def _run(recipe: Recipe, out: Path, resume: bool, tracker: str | None) -> None:
    from rich.console import Console

    from multidelete.pipeline import run
    from multidelete.report.pages.deletion import DELETION_PAGE, write_deletion
    from multidelete.report.pages.run import write_report
    from multidelete.report.tables.groups import rows_table
    from multidelete.runs.reader import Run
    from multidelete.runs.record import check_out
    from multidelete.runs.seal import digest_of

    check_out(out, resume=resume)  # check before slow imports and reading data
    with open_engine(recipe, resume, tracker, out) as engine:
        outcome = run(recipe, out, engine, resume=resume)
    write_report([Run.load(out)], out)
    write_deletion(out)
    Console().print(rows_table(Run.load(out)))
    typer.echo(f"results: {out / 'results.json'}\nreport:  {out / 'report.html'}")
    if (out / DELETION_PAGE).is_file():
        typer.echo(f"record:  {out / DELETION_PAGE}")
    typer.echo(f"digest:  {digest_of(out)}  (keep it: multidelete verify {shlex.quote(str(out))} --digest ...)")
    typer.echo(outcome.sentence)


def _make_room(recipe: Recipe, out: Path) -> None:
    """Remove a finished demo run in ``out``; other folders are not touched."""
    import shutil

    from multidelete.pipeline import check_splits
    from multidelete.runs.record import finished_command

    if (finished_command(out) or "").split()[1:2] != ["demo"]:
        return
    # Keep the last demo if this one cannot run.
    check_splits(recipe.request(recipe.dataset()), recipe.methods())
    typer.echo(f"replacing the finished demo in {out}")
    shutil.rmtree(out)
