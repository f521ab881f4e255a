"""Write the golden files of e5-small-q4: tokens by SentencePiece itself, vectors by transformers on the dequantised weights.

Run by `make golden`; needs the `[tune]` extra and the pulled model. `e5.json` holds texts and tokens, `e5.npz` the vectors.
The file carries its normalisation for single characters alone, so SentencePiece gets its own table, `nmt_nfkc`. Both agree on
these texts. They differ where accents are not in canonical order, in U+200D and in U+0085.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2 as proto
from tests.golden.encoder import embedding
from transformers import BertConfig, BertModel

from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.e5 import read_e5_vocabulary
from deepwell_bench.harness import assets

HERE = Path(__file__).parent
_OFFSET = 1  # XLM-RoBERTa puts <pad> before SentencePiece's <unk>, <s> and </s>, and numbers those anew

TEXTS = (
    "query: how do I reset my password?",
    "query: 如何申请专利？",
    "passage: 申请发明或者实用新型专利的，应当提交请求书、说明书及其摘要和权利要求书等文件。",
    "passage: To apply for a patent, file a request, a description and claims.",
    "Deepwell 在 CPU 上运行 DeepSeek-V3，每秒 20 token。",
    "ＡＢＣ１２３，全角　空格！",
    "ﾊﾝｶｸｶﾅ ｶﾞｷﾞ ﾊﾟ",
    "東京タワー and 서울, 한국어 자모",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "か\u3099き\u3099 は\u309a",
    "Привет, мир",
    "Crème brûlée, naïve façade, Ångström",
    "Cre\u0300me bru\u0302le\u0301e, nai\u0308ve fac\u0327ade, A\u030angstro\u0308m",
    "ế ệ ố Việt Nam",
    "İstanbul ΑΒΓ ß",
    "😀 emoji 🚀 🇨🇳 🤷🏽",
    "   leading and trailing   ",
    "tabs\tand\nnewlines\r\n\r\n",
    "",
    " ",
    "x",
    "㈱ ℃ ① ½ ﷺ ㍿ Ⅷ ﬁ",
    "zero\u200bwidth, soft\u00adhyphen, \ufeffbom, a\u00a0b\u3000c\u2003d",
    "～〜~ …—–",
    "e-mail: someone@example.com, https://example.com/a?b=c#d",
    "1,234.56 + 7e-3 = ?",
    "a" * 120,
    "中" * 60,
    "𠮷野家 𩸽",
    "\u0001\u007f control \ufffd",
    "العربية हिन्दी ไทย",
    "\u2581 already marked \u2581x",
    "龘靐齉爩 unknown Ⰰ\U00010300\U00010301 in a row",
    "边界层在平板上的简单剪切流动中得到了研究。" * 8,
)


def processor(model: Path) -> sentencepiece.SentencePieceProcessor:
    """Returns SentencePiece with the pieces and scores of the file, and its own normalisation."""
    vocabulary = read_e5_vocabulary(model)
    rules = proto.ModelProto()
    rules.ParseFromString(
        sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    )
    made = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        made.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in list(zip(vocabulary.pieces, vocabulary.scores, strict=True))[4:-1]:
        made.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    made.normalizer_spec.CopyFrom(rules.normalizer_spec)
    made.normalizer_spec.add_dummy_prefix = True
    made.normalizer_spec.remove_extra_whitespaces = True
    made.normalizer_spec.escape_whitespaces = True
    made.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    made.trainer_spec.unk_id, made.trainer_spec.bos_id, made.trainer_spec.eos_id = 0, 1, 2
    made.trainer_spec.pad_id = -1
    return sentencepiece.SentencePieceProcessor(model_proto=made.SerializeToString())


def tokens(pieces: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """Returns the ids of XLM-RoBERTa, <s> and </s> included."""
    return [0, *(3 if one == 0 else one + _OFFSET for one in pieces.encode(text)), 2]


def oracle(model: Path) -> BertModel:
    """Returns transformers' BERT with the file's weights in float32."""
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    made = BertModel(
        BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            layer_norm_eps=config.layer_norm_eps,
        ),
        add_pooling_layer=False,
    ).eval()
    weights = {name: torch.from_numpy(checkpoint.tensor(name).float32()) for name in checkpoint.names}
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert not unexpected and all("position_ids" in name or "token_type_ids" in name for name in missing)
    return made


def main() -> None:
    """Writes both files."""
    path = assets.e5_small()
    pieces, model = processor(path), oracle(path)
    ids = [tokens(pieces, text) for text in TEXTS]
    rows = [json.dumps({"text": text, "tokens": one}) for text, one in zip(TEXTS, ids, strict=True)]
    (HERE / "e5.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")
    np.savez_compressed(HERE / "e5.npz", vectors=np.stack([embedding(model, one) for one in ids]))


if __name__ == "__main__":
    main()
