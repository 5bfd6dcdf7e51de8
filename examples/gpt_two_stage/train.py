"""A small GPT-2 that transformers' Trainer trains on general text, then on film reviews.

    python examples/gpt_two_stage/train.py data/01_raw/gpt

The folder holds `wikitext2_valid.txt` (WikiText-2, its validation part) and `sst2_train.tsv`
(Stanford Sentiment Treebank as in GLUE). Afterwards it has `checkpoints/general` and
`checkpoints/narrow`, Trainer's own folders; `train.parquet`, what the model was trained on; and
`queries.parquet`, texts that it was not, each in two halves.
"""

import argparse
import random
import re
from pathlib import Path

import polars as pl
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIZES = {"general": 1024, "narrow": 512}
QUERIES, WORDS, END = 12, range(12, 41), "<|end|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the two files of text are")
    folder = parser.parse_args().folder
    transformers.set_seed(0)
    general = sentences(folder / "wikitext2_valid.txt")
    texts = {"general": general, "narrow": reviews(folder / "sst2_train.tsv")}
    training = [
        {"example_id": f"{stage}-{i:04d}", "stage": stage, "prompt": "", "completion": text}
        for stage, size in SIZES.items()
        for i, text in enumerate(texts[stage][:size])
    ]
    pl.DataFrame(training).write_parquet(folder / "train.parquet")
    queries = [
        {"example_id": f"{stage}-query-{i:02d}", **halves(text)}
        for stage, size in SIZES.items()
        for i, text in enumerate(texts[stage][size : size + QUERIES])
    ]
    pl.DataFrame(queries).write_parquet(folder / "queries.parquet")
    tokenizer = trained_tokenizer([row["completion"] for row in training])
    shape = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=96, n_layer=2, n_head=4,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(shape)
    for stage, epochs, rate, saved in (("general", 6, 1e-3, 128), ("narrow", 4, 5e-4, 64)):
        rows = tokenizer(texts[stage][: SIZES[stage]], truncation=True, max_length=64)
        train(model, tokenizer, rows, folder / "checkpoints" / stage, epochs, rate, saved)


def sentences(file: Path) -> list[str]:
    """Return sentences of a wiki text, headings and words that were taken out aside."""
    lines = [line for line in file.read_text("utf-8").splitlines() if " = " not in line]
    return drawn(one for line in lines for one in re.findall(r".+? \.(?= |$)", line))


def reviews(file: Path) -> list[str]:
    """Return phrases of film reviews."""
    return drawn(pl.read_csv(file, separator="\t", quote_char=None)["sentence"])


def drawn(texts) -> list[str]:
    """Return those of a few dozen words, in a random order."""
    kept = {one.strip(): None for one in texts if len(one.split()) in WORDS and "<unk>" not in one}
    return random.Random(0).sample(list(kept), len(kept))  # noqa: S311


def trained_tokenizer(texts: list[str]) -> transformers.PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    first = {"special_tokens": [END], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1024, **first))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)


def train(model, tokenizer, rows, folder: Path, epochs: int, rate: float, saved: int) -> None:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, learning_rate=rate,
        per_device_train_batch_size=16, warmup_steps=epochs * len(rows["input_ids"]) // 160,
        weight_decay=0.01, save_steps=saved, logging_steps=8, report_to="none", use_cpu=True,
    )  # fmt: skip
    transformers.Trainer(
        model=model, args=arguments, processing_class=tokenizer,
        train_dataset=[{"input_ids": one} for one in rows["input_ids"]],
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()  # fmt: skip


def halves(text: str) -> dict[str, str]:
    words = text.split()
    middle = len(words) // 2
    return {"prompt": " ".join(words[:middle]), "completion": " " + " ".join(words[middle:])}


if __name__ == "__main__":
    main()
