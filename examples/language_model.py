"""Distil a language model of your own text: teacher, its cached logits, student, a sample.

    pip install '.[torch,examples]' transformers accelerate datasets tokenizers
    python examples/language_model.py                          # the text of Python's help()
    python examples/language_model.py --data-dir FOLDER        # every .txt below it, UTF-8
    python examples/language_model.py --teacher MODEL          # of transformers: a name or a folder

The engine is the ``Trainer`` of transformers. Its loss with a teacher is `TokenKDTrainer`; what the
teacher says is asked once and stands beside the text, in columns of a `datasets` dataset. Without
``--teacher`` a tokenizer and a teacher are trained first. A run's folder, ``--out``, holds its
checkpoints, so ``--resume`` goes on after Ctrl-C or a crash; the columns, ``stored``; the models in
the format of transformers, ``teacher`` and ``student``; and ``results.json``. The defaults take a
minute on two cores and are too small to write sense.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from data import InputError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROWS = 256
"""Windows whose answers stand in one file: what a crash loses at most."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = made.add_argument
    add("--out", type=Path, default=Path("runs/language_model"), help="the run's folder")
    add("--resume", action="store_true", help="go on from what is in --out")
    add("--overwrite", action="store_true", help="begin anew in an --out that has a run")
    add("--data-dir", type=Path, help="a folder with .txt files; default: the text of help()")
    add("--teacher", help="a causal model with its tokenizer; default: one is trained")
    add("--vocabulary", type=int, default=512, help="of the tokenizer that is trained")
    add("--length", type=int, default=48, help="tokens in a window of text")
    add("--draws", type=int, default=12, help="of the teacher, stored for each token")
    add("--keep", type=int, default=0, help="store so many of its largest probabilities instead")
    add("--divergence", choices=("forward", "reverse", "jsd", "tv"), default="forward")
    add("--temperature", type=float, default=1.0)
    add("--ce-weight", type=float, default=0.0, help="of the labels' cross-entropy beside it")
    add("--width", type=int, default=32, help="of the student; a trained teacher has 3 times it")
    add("--steps", type=int, default=150)
    add("--teacher-steps", type=int, default=200)
    add("--batch-size", type=int, default=16, help="windows a step")
    add("--lr", type=float, default=3e-3)
    add("--save-steps", type=int, default=50, help="steps between two checkpoints")
    add("--seed", type=int, default=0)
    add("--prompt", default="The ", help="what the sample begins with")
    add("--words", type=int, default=40, help="tokens of the sample")
    return made


def read_texts(folder: Path | None) -> list[str]:
    """Return the texts, in the order of their names."""
    if folder is None:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    texts = []
    for path in sorted(folder.rglob("*.txt")):
        try:
            texts.append(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"--data-dir: {path} is not UTF-8: {error}") from error
    if not texts:
        raise InputError(f"--data-dir: there is no .txt file in {folder} or below it")
    return texts


def windows(texts: Sequence[str], tokenizer: Any, options: Any) -> tuple[Any, Any]:
    """Return the windows to train on and those to test on, as datasets with ``input_ids``."""
    from datasets import Dataset

    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    n = options.length
    cut = [x[i : i + n] for x in ids for i in range(0, len(x), n) if len(x) - i > n // 4]
    held_out = len(cut) // 10
    if min(held_out, options.length) < 4:
        raise InputError(
            f"the text gives {len(cut)} windows of {n} tokens; give 40 or more windows of at least "
            "4: more text, or a smaller --length"
        )
    data = Dataset.from_dict({"input_ids": cut}).shuffle(seed=0)
    return data.select(range(held_out, len(cut))), data.select(range(min(held_out, 256)))


def train_tokenizer(texts: Sequence[str], options: Any) -> Any:
    """Return a byte-level BPE that was trained on the texts."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(
        texts, vocab_size=options.vocabulary, special_tokens=["<pad>"], show_progress=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, pad_token="<pad>")


def new_model(width: int, vocabulary: int, options: Any) -> Any:
    """Return a small Llama with random weights; put a model of your own here."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=2, num_attention_heads=4, pad_token_id=None, bos_token_id=None,
        eos_token_id=None, max_position_embeddings=max(1024, options.length),
    )  # fmt: skip
    return LlamaForCausalLM(config)


def fit(trainer_class: Any, name: str, options: Any, steps: int, **parts: Any) -> Any:
    """Train, or go on from the last checkpoint, or return the model that is there."""
    import torch
    from transformers import TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    done, folder = options.out / name, options.out / "checkpoints" / name
    if (done / "config.json").is_file():
        return type(parts["model"]).from_pretrained(done)
    settings = TrainingArguments(
        str(folder), max_steps=steps, learning_rate=options.lr, warmup_steps=min(20, steps // 5),
        lr_scheduler_type="cosine", per_device_train_batch_size=options.batch_size,
        save_steps=options.save_steps, save_total_limit=1, logging_steps=50, report_to=[],
        seed=options.seed, disable_tqdm=not sys.stderr.isatty(), remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    common.say(f"{name}: {steps} steps" + (f", from {Path(last).name}" if last else ""))
    trainer = trainer_class(args=settings, **parts)
    trainer.train(resume_from_checkpoint=last)
    with common.drafted(done) as draft:
        trainer.save_model(str(draft))
    return trainer.model.cpu()


def store(teacher: Any, data: Any, collate: Any, mark: str, options: Any) -> Any:
    """Return the windows with what the teacher says of them; each file is written once.

    Several machines share the work if each takes some of the numbers; see the guide.
    """
    import torch
    from datasets import load_dataset
    from pyarrow.dataset import ParquetFragmentScanOptions

    from mcld_core.extensions.nlp import TopKLogits, sample_teacher, teacher_columns

    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, files = teacher.to(device).eval(), []
    for number, start in enumerate(range(0, len(data), ROWS)):
        draws = torch.Generator(device).manual_seed(options.seed + number)

        @torch.no_grad()
        def ask(rows: dict[str, Any], draws: Any = draws) -> dict[str, Any]:
            batch = collate([{"input_ids": ids} for ids in rows["input_ids"]])
            mask = batch["attention_mask"]
            logits = teacher(batch["input_ids"].to(device), attention_mask=mask.to(device)).logits
            if options.keep:
                said = TopKLogits.from_logits(logits, min(options.keep, logits.shape[-1]))
            else:
                said = TopKLogits.from_samples(*sample_teacher(logits, options.draws, draws))
            return teacher_columns(said, mask, fingerprint=mark)

        files.append(options.out / "stored" / f"{number:05}.parquet")
        if not files[-1].is_file():
            part = data.select(range(start, min(start + ROWS, len(data))))
            part = part.map(ask, batched=True, batch_size=32, load_from_cache_file=False)
            with common.drafted(files[-1]) as draft:
                part.to_parquet(str(draft), write_page_checksum=True)
    size = sum(file.stat().st_size for file in files) / sum(map(len, data["input_ids"]))
    common.say(f"stored: {len(files)} files, {size:.0f} bytes a token with the text")
    return load_dataset(
        "parquet", data_files=list(map(str, files)), split="train",
        cache_dir=str(options.out / "cache"),  # memory-mapped from there
        fragment_scan_options=ParquetFragmentScanOptions(page_checksum_verification=True),
    )  # fmt: skip


def sample(model: Any, tokenizer: Any, options: Any) -> str:
    """Return the prompt and what the model writes after it."""
    import torch

    torch.manual_seed(options.seed)
    prompt = tokenizer(options.prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    pad = {"pad_token_id": tokenizer.pad_token_id, "attention_mask": torch.ones_like(prompt)}
    written = model.generate(prompt, max_new_tokens=options.words, do_sample=True, top_k=20, **pad)
    return tokenizer.decode(written[0], skip_special_tokens=True)


def run(options: Any) -> None:
    """Read, train the teacher, store what it says, train two students, compare them."""
    import datasets
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
    from transformers import DataCollatorForLanguageModeling as Collator

    from mcld_core.extensions.nlp import TeacherCollator
    from mcld_core.extensions.nlp.huggingface import TokenKDTrainer

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    texts, folder = read_texts(options.data_dir), options.out / "tokenizer"
    options.text = hashlib.sha256("\0".join(texts).encode()).hexdigest()  # for --resume to compare
    common.begin(options)
    if options.teacher:
        tokenizer = AutoTokenizer.from_pretrained(options.teacher)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    elif folder.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(texts, options)
    train, test = windows(texts, tokenizer, options)
    if not (options.teacher or folder.is_dir()):
        with common.drafted(folder) as draft:
            tokenizer.save_pretrained(draft)
    common.say(f"{len(train):,} windows to train on, {len(test):,} to test on")
    collate, width = Collator(tokenizer, mlm=False), options.width
    plain = {"train_dataset": train, "data_collator": collate}
    if options.teacher:
        teacher = AutoModelForCausalLM.from_pretrained(options.teacher)
    else:
        teacher = new_model(3 * width, len(tokenizer), options)
        teacher = fit(Trainer, "teacher", options, options.teacher_steps, model=teacher, **plain)
        tokenizer.save_pretrained(options.out / "teacher")

    # The text that TeacherCollator compares: of this teacher, tokenizer and kind of storage.
    kind = f"{options.teacher or 'trained'}, {options.keep or -options.draws}, seed {options.seed}"
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    mark = f"{kind}, {hashlib.sha256(words.encode()).hexdigest()}"
    read = train.select(range(min(len(train), options.steps * options.batch_size)))
    stored = store(teacher, read, collate, mark, options)  # what the student will read
    settings = {"divergence": options.divergence, "temperature": options.temperature}
    settings["ce_weight"] = options.ce_weight
    vocabulary = teacher.config.vocab_size
    models = {
        "teacher": teacher,
        "student, without it": fit(
            Trainer, "without", options, options.steps,
            model=new_model(width, vocabulary, options), **plain,
        ),
        "student": fit(
            TokenKDTrainer, "student", options, options.steps,
            model=new_model(width, vocabulary, options), train_dataset=stored,
            data_collator=TeacherCollator(collate, mark), **settings,
        ),
    }  # fmt: skip
    tokenizer.save_pretrained(options.out / "student")
    quiet = TrainingArguments(str(options.out), report_to=[], disable_tqdm=True)
    quiet.dataloader_pin_memory = torch.cuda.is_available()
    found, columns = {}, ("perplexity", "agreement", "acceptance")
    print(f"\n{'':20}{'weights':>10}" + "".join(f"{name:>12}" for name in columns))
    for name, model in models.items():
        judge = TokenKDTrainer(
            model=model, teacher=teacher, args=quiet, eval_dataset=test, data_collator=collate
        )
        judge.remove_callback(transformers.PrinterCallback)
        got = judge.evaluate()
        found[name] = {column: got[f"eval_{column}"] for column in columns}
        numbers = "".join(f"{x:12.2f}" for x in found[name].values())
        print(f"{name:20}{model.num_parameters():10,}{numbers}")
    text = sample(models["student"].cpu(), tokenizer, options)
    print(f"\nThe student writes: {text!r}")
    with common.drafted(options.out / "results.json") as draft:
        draft.write_text(json.dumps({"test": found, "sample": text}, indent=2))


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return 0, 2 after bad input (one line), 130 when stopped."""
    options = parser().parse_args(argv)
    try:
        if options.width % 8 or not (options.prompt and options.temperature):
            wants = "--width needs a multiple of 8, --temperature a number above 0, --prompt a text"
            raise InputError(wants)
        run(options)
    except KeyboardInterrupt:
        common.say("stopped; go on from the last checkpoint with the same command and --resume")
        return 130
    except (InputError, OSError, ValueError) as error:
        print(f"error: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
