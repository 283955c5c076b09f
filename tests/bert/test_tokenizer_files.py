"""Models in Hugging Face's layout: their tokenizer is honoured in every setting, or refused.

The reference is the package tokenizers; transformers is no dependency of the tests.
"""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from bert import pretrained
from bert.errors import UserError
from bert.tokenizer import SPECIAL_TOKENS, BERTTokenizer, check_vocabulary
from bert.tokenizer_files import find_tokenizer

WORDS = (
    "möchte mochte café cafe 日本語 日 本 語 the The dog Dog cat zebra z a x y . , ' ##e ##b ##r "
    "##a ##s ##o ##c ##h ##t ä ##ä é ##é e <s> </s> <pad> <unk> <mask>"
).split()
VOCAB = [*SPECIAL_TOKENS, *WORDS]
STOCK = {"tokenizer_class": "BertTokenizer", "model_max_length": 512}
INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
AS_IS = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": INPUTS}
AS_IS |= {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
TEXTS = (
    "Ich möchte Café",
    "日本語 The Dog's zebra.",
    "a [MASK] b <new> x[SEP]",
    "zebras  ä\tÉ",
    "",
)


def write(folder, texts=None, vocab=VOCAB, **files):
    """Write a model's tokenizer; keywords are JSON files, ``texts`` are other ones."""
    folder.mkdir(exist_ok=True)
    if vocab:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    for name, text in (texts or {}).items():
        (folder / name).write_text(text, "utf-8")
    return folder


def read(folder, config=()) -> BERTTokenizer:
    def get(name):
        return folder / name if (folder / name).is_file() else None

    return find_tokenizer(get, dict(config), folder)


def reference(lower=True, strip=None, chinese=True, added=(), vocab=VOCAB) -> tokenizers.Tokenizer:
    """Return the package's own BERT."""
    ids = {token: i for i, token in enumerate(vocab)}
    word_piece = tokenizers.BertWordPieceTokenizer(
        ids, lowercase=lower, strip_accents=strip, handle_chinese_chars=chinese
    )
    word_piece.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocab])
    word_piece.add_tokens(list(added))
    return word_piece._tokenizer


def same(tokenizer: BERTTokenizer, expected: tokenizers.Tokenizer, texts=TEXTS, max_len=12) -> bool:
    """Compare ids and token types of all pairs of texts, and of single texts."""
    expected.enable_truncation(max_len, strategy="longest_first")
    pairs = [(a, b) for a in texts for b in texts]
    found = tokenizer.encode(*zip(*pairs, strict=True), max_len)
    single = tokenizer.encode(texts, None, max_len)
    together = expected.encode_batch(pairs), expected.encode_batch(list(texts))
    for encoded, encodings in zip((found, single), together, strict=True):
        for i, encoding in enumerate(encodings):
            ids = encoded.input_ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
            types = [int(n >= encoded.first_segment[i]) for n in range(len(ids))]
            if (ids, types) != (encoding.ids, encoding.type_ids):
                return False
    return True


def round_trip(tokenizer: BERTTokenizer, folder) -> BERTTokenizer:
    """Export as for Hugging Face, and read that."""
    folder.mkdir(exist_ok=True)
    for name, text in tokenizer.huggingface_files(48).items():
        (folder / name).write_text(text, "utf-8")
    return read(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "do_lower_case": st.booleans(),
            "strip_accents": st.none() | st.booleans(),
            "tokenize_chinese_chars": st.booleans(),
        },
    ),
    st.lists(st.text("Möchteé日本語ÉÅ\u0301 .'ẞßİ\u200bTheDog[MASK]"), min_size=2, max_size=4),
)
def test_accents_case_and_chinese_characters_are_treated_as_the_settings_say(
    tmp_path, flags, texts
):
    tokenizer = read(write(tmp_path / "model", tokenizer_config=STOCK | flags))
    expected = reference(
        flags.get("do_lower_case", True),
        flags.get("strip_accents"),
        flags.get("tokenize_chinese_chars", True),
    )
    assert same(tokenizer, expected, texts)
    assert same(round_trip(tokenizer, tmp_path / "export"), expected, texts)


def test_the_original_berts_tokenizer_is_described_by_its_vocabulary_alone(tmp_path):
    folder = write(tmp_path / "model", tokenizer_config=STOCK | {"strip_accents": None})
    assert read(folder).tokenizer_json is None
    assert read(folder).in_config() == {"do_lower_case": True}
    write(folder, tokenizer_config=STOCK | {"strip_accents": False})
    assert read(folder).tokenizer_json is not None


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_added_tokens_are_found_in_text_as_their_flags_say(tmp_path, flag):
    about = {name: name == flag for name in ("lstrip", "rstrip", "single_word", "normalized")}
    decoder = {str(len(VOCAB)): {"content": "<new>", "special": False, **about}}
    tokenizer = read(
        write(tmp_path / "model", tokenizer_config=STOCK | {"added_tokens_decoder": decoder})
    )
    assert len(tokenizer) == len(VOCAB) + 1
    expected = reference(added=[AddedToken("<new>", **about)])
    texts = ("a <new> dog", "a<new>s", "<NEW> <new>")
    assert same(tokenizer, expected, texts)
    assert same(round_trip(tokenizer, tmp_path / "export"), expected, texts)


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<new>": len(VOCAB)}},
        {"special_tokens_map": {"additional_special_tokens": ["<new>"]}},
        {"tokenizer_config": STOCK | {"additional_special_tokens": ["<new>"]}},
        {"tokenizer_config": STOCK | {"extra_special_tokens": ["<new>"]}},
    ],
)
def test_added_tokens_are_honoured_in_whichever_file_they_are(tmp_path, files):
    tokenizer = read(write(tmp_path, **files))
    assert same(tokenizer, reference(added=[AddedToken("<new>", normalized=False)]))


@pytest.mark.parametrize("config", [[], ["dog"]])
def test_two_files_that_differ_in_their_special_tokens_are_refused(tmp_path, config):
    """Version 4 of transformers takes the ones, version 5 the others."""
    more = {"additional_special_tokens": ["<new>"]}
    write(tmp_path, special_tokens_map=more, tokenizer_config=STOCK | more)
    assert same(read(tmp_path), reference(added=[AddedToken("<new>", normalized=False)]))
    write(tmp_path, tokenizer_config=STOCK | {"additional_special_tokens": config})
    with pytest.raises(UserError, match=r"has other additional_special_tokens than special_tok"):
        read(tmp_path)


def test_old_added_tokens_are_found_before_normalization_if_a_setting_calls_them_special(tmp_path):
    files = {"added_tokens": {"<new>": len(VOCAB), "[MASK]": 4}}
    texts = ("a <NEW> dog [mask]", "<new> [MASK]")
    special = [AddedToken(token, normalized=False, special=True) for token in ("<new>", "[MASK]")]
    plain = [AddedToken(token) for token in ("<new>", "[MASK]")]
    write(tmp_path, **files, tokenizer_config=STOCK)
    assert same(read(tmp_path), reference(added=plain), texts)
    said = {"additional_special_tokens": ["<new>"], "mask_token": "[MASK]"}
    write(tmp_path, tokenizer_config=STOCK | said)
    assert same(read(tmp_path), reference(added=special), texts)
    write(tmp_path, tokenizer_config=STOCK, special_tokens_map=said)
    with pytest.raises(UserError, match=r"treat '<new>' differently: write it into tok"):
        read(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_special_tokens_of_other_names_are_honoured(tmp_path, file):
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    names = {f"{name}_token": token for name, token in names.items()}
    folder = write(tmp_path / "model", **{file: names})
    for tokenizer in (read(folder), round_trip(read(folder), tmp_path / "export")):
        assert tokenizer.special_tokens == names
        ids = tokenizer.encode(["dog ?"], ["<mask> [MASK]"], 20).input_ids
        tokens = [list(tokenizer.vocab)[id_] for id_ in ids]
        unknown = ["<unk>"] * 3  # the brackets and the word, which are no special token here
        assert tokens == ["<s>", "dog", "<unk>", "</s>", "<mask>", *unknown, "</s>"]


TEMPLATES = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "no types": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
    "second first": ("[CLS] $A [SEP]", "[CLS] $B:1 [SEP]:1 $A [SEP]"),
    "type 2": ("[CLS]:2 $A [SEP]", "[CLS]:2 $A [SEP] $B:1 [SEP]:1"),
}
VOCAB_IDS = {token: i for i, token in enumerate(VOCAB)}


def tokenizer_json(model=None, normalizer=None, pre=None, template="bert", added=()) -> dict:
    model = model or models.WordPiece(VOCAB_IDS, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre or pre_tokenizers.BertPreTokenizer()
    single, pair = TEMPLATES[template]
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=special
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens(list(added))
    return json.loads(tokenizer.to_str())


OTHER = {
    "cased": {"normalizer": normalizers.BertNormalizer(lowercase=False)},
    "accents": {"normalizer": normalizers.BertNormalizer(strip_accents=False)},
    "no cleaning": {"normalizer": normalizers.BertNormalizer(clean_text=False)},
    "Chinese": {"normalizer": normalizers.BertNormalizer(handle_chinese_chars=False)},
    "NFKC": {"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])},
    "replaces": {"normalizer": normalizers.Replace("dog", "cat")},
    "spaces": {"pre": pre_tokenizers.WhitespaceSplit()},
    "long words": {
        "model": models.WordPiece(VOCAB_IDS, unk_token="[UNK]", max_input_chars_per_word=5)
    },
    "prefix": {
        "model": models.WordPiece(VOCAB_IDS, unk_token="[UNK]", continuing_subword_prefix="@@")
    },
    "BPE": {"model": models.BPE(VOCAB_IDS, [], unk_token="[UNK]")},
    "WordLevel": {"model": models.WordLevel(VOCAB_IDS, unk_token="[UNK]")},
    "no types": {"template": "no types"},
    "RoBERTa's layout": {"template": "roberta"},
    "added": {"added": [AddedToken("dog")]},
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_tokenizer_json_of_its_own_class_is_used_as_it_is(tmp_path, kind):
    content = tokenizer_json(**OTHER[kind])
    # Truncation and padding are the caller's: they change nothing.
    content["truncation"] = {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    folder = write(tmp_path / "model", vocab=None, tokenizer=content, tokenizer_config=AS_IS)
    expected = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert same(read(folder), expected)
    assert same(round_trip(read(folder), tmp_path / "export"), expected)


@pytest.mark.parametrize("kind", [kind for kind in OTHER if kind != "added"])
def test_a_tokenizer_json_that_contradicts_the_other_files_is_refused(tmp_path, kind):
    write(tmp_path, tokenizer=tokenizer_json(**OTHER[kind]), tokenizer_config=STOCK)
    with pytest.raises(UserError, match=r"tokenizer\.json .*(PreTrainedTokenizerFast|in both)"):
        read(tmp_path)


@pytest.mark.parametrize(
    "flag, own",
    [
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ],
)
def test_a_tokenizer_json_needs_the_flags_of_its_normalizer_in_the_settings_too(
    tmp_path, flag, own
):
    content = tokenizer_json(normalizer=normalizers.BertNormalizer(**{own: False}))
    for said in (STOCK, STOCK | {flag: True}):
        write(tmp_path, tokenizer=content, tokenizer_config=said)
        with pytest.raises(UserError, match=f"says {flag} False, but .* says True"):
            read(tmp_path)
    write(tmp_path, tokenizer_config=STOCK | {flag: False})
    assert same(read(tmp_path), tokenizers.Tokenizer.from_str(json.dumps(content)))


def test_a_tokenizer_json_that_agrees_is_used_with_its_added_tokens(tmp_path):
    content = tokenizer_json(
        normalizer=normalizers.BertNormalizer(strip_accents=False), added=[AddedToken("<new>")]
    )
    write(tmp_path, tokenizer=content, tokenizer_config=STOCK | {"strip_accents": False})
    assert same(read(tmp_path), tokenizers.Tokenizer.from_str(json.dumps(content)))


@pytest.mark.parametrize(
    "settings, config, complaint",
    [
        ({"tokenizer_class": "T5Tokenizer"}, {}, "its tokenizer is a 'T5Tokenizer'"),
        ({}, {"tokenizer_class": "BertJapaneseTokenizer"}, "is a 'BertJapaneseTokenizer'"),
        ({"tokenizer_class": ["x"]}, {}, "its tokenizer is a"),
        (AS_IS, {}, "needs a tokenizer.json"),
        ({"do_lower_case": "false"}, {}, "do_lower_case is 'false', but must be true or false"),
        ({"do_lower_case": None}, {}, "do_lower_case is None"),
        ({"strip_accents": 0}, {}, "strip_accents is 0"),
        ({"truncation_side": "left"}, {}, "truncation_side is not supported"),
        ({"split_special_tokens": True}, {}, "split_special_tokens is not supported"),
        ({"model_input_names": ["input_ids"]}, {}, "without token_type_ids"),
        ({}, {"do_lower_case": False}, "config.json says do_lower_case False, but"),
        ({"cls_token": "<cls>"}, {}, "lacks <cls>"),
        ({"pad_token": None}, {}, "lacks pad_token"),
        ({"user_token": "dog"}, {}, "versions of transformers use user_token, 'dog', differently"),
        ({"added_tokens_decoder": {"99": {"content": "<new>"}}}, {}, "gets another id than 99"),
        ({"added_tokens_decoder": {"5": "<new>"}}, {}, "tokens are not supported"),
        ({"added_tokens_decoder": 5}, {}, "tokens are not supported"),
        ({"additional_special_tokens": 5}, {}, "tokens are not supported"),
        ({"mask_token": 5}, {}, "tokens are not supported"),
    ],
)
def test_settings_that_are_not_supported_are_refused(tmp_path, settings, config, complaint):
    write(tmp_path, tokenizer_config=settings)
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, config)


def test_a_name_for_an_added_token_changes_nothing_about_how_it_is_found(tmp_path):
    content = tokenizer_json(added=[AddedToken("<new>", single_word=True)])
    texts = ("a <new> dog", "a<new>s")
    write(tmp_path, tokenizer=content, tokenizer_config=AS_IS | {"bos_token": "<new>"})
    assert same(read(tmp_path), tokenizers.Tokenizer.from_str(json.dumps(content)), texts)
    special = {str(i): {"content": token, "special": True} for i, token in enumerate(VOCAB[:5])}
    said = STOCK | {"bos_token": "<new>", "added_tokens_decoder": special}
    write(tmp_path, tokenizer=content, tokenizer_config=said)
    with pytest.raises(UserError, match="the added_tokens is another one"):
        read(tmp_path)


@pytest.mark.parametrize("template", ["second first", "type 2"])
def test_token_types_in_another_order_are_refused(tmp_path, template):
    content = tokenizer_json(template=template)
    write(tmp_path, tokenizer=content, tokenizer_config=AS_IS)
    with pytest.raises(UserError, match="the token types of a pair are"):
        read(tmp_path)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda content: content.update(post_processor=None), "with a post_processor"),
        (
            lambda content: content["post_processor"].update(single=[], pair=[]),
            "its post_processor adds no token",
        ),
        (
            lambda content: content["post_processor"]["special_tokens"]["[CLS]"].update(ids=[999]),
            "or one of an unknown id",
        ),
        (
            lambda content: content.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
            "cannot split text",  # the library panics
        ),
        (
            lambda content: content.update(
                model={"type": "Unigram", "unk_id": None, "vocab": [["a", -1], ["[CLS]", -1]]}
            ),
            "has no unk_id",
        ),
        (lambda content: content["model"].update(type="BPE", merges=[], dropout=0.5), "at random"),
        (lambda content: content["model"].update(unk_token="?"), r"lacks \?"),
        (lambda content: content["model"].pop("vocab"), "is not a tokenizer.json"),
        (lambda content: content["model"]["vocab"].update(new=99), "are not 0, 1, 2"),
        (lambda content: content["model"]["vocab"].update({"\ud800": len(VOCAB)}), "is not a"),
        (lambda content: content["model"]["vocab"].update(new=float(len(VOCAB))), "is not a"),
    ],
)
def test_a_tokenizer_json_that_cannot_be_used_is_refused(tmp_path, change, complaint):
    content = tokenizer_json()
    change(content)
    write(tmp_path, vocab=None, tokenizer=content, tokenizer_config=AS_IS)
    with pytest.raises(UserError, match=complaint) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_token_that_versions_of_transformers_read_differently_is_refused(tmp_path):
    write(tmp_path, vocab=[*VOCAB, "Zug "])
    with pytest.raises(UserError, match=f"line {len(VOCAB) + 1}: .*'Zug '.* remove the white"):
        read(tmp_path)
    write(tmp_path, vocab=[*VOCAB, " ", "\u3000"])  # no text has them
    assert same(read(tmp_path), reference(vocab=[*VOCAB, " ", "\u3000"]))


def test_a_model_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has neither vocab\.txt nor tokenizer\.json"):
        read(tmp_path)


def test_rows_that_pad_a_model_are_allowed_and_another_vocabulary_is_not(tmp_path):
    tokenizer = read(write(tmp_path))
    size = -(-len(VOCAB) // 8) * 8
    assert size != len(VOCAB)
    for allowed in (len(VOCAB), size, size + 8):
        check_vocabulary(tokenizer, allowed)
    for wrong in (len(VOCAB) - 1, size + 1, size + 1000, 8):
        with pytest.raises(UserError, match="this is not the model's vocabulary"):
            check_vocabulary(tokenizer, wrong)


def test_the_tokenizer_of_a_run_goes_with_it(tiny_bert, finetune_here, glue_dir, tmp_path):
    """Training, resuming, prediction, a further run and exports have the same tokenizer."""
    from bert import export, load_classifier

    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_bert.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    write(model, vocab=None, tokenizer_config=STOCK | {"strip_accents": False, "mask_token": "the"})
    expected = pretrained.find(str(model), with_weights=False).tokenizer
    first = ("--data_dir", glue_dir, "--training_steps", "1", "--pretrained_bert_parameters", model)
    code, run = finetune_here(*first, "--max_len", "32", bert=False)
    assert code == 0
    files = {name: (run / name).read_bytes() for name in ("tokenizer.json", "config.json")}
    assert files["tokenizer.json"].decode() == expected.tokenizer_json

    (run / "tokenizer.json").unlink()
    assert finetune_here("--resume", bert=False)[0] == 0
    assert {name: (run / name).read_bytes() for name in files} == files

    _, tokenizer, _ = load_classifier(run)
    assert tokenizer.tokenizer_json == expected.tokenizer_json
    assert tokenizer.special_tokens == expected.special_tokens
    assert pretrained.find(str(run), with_weights=False).tokenizer.special_tokens["mask_token"]
    further = ("--data_dir", glue_dir, "--training_steps", "1", "--model_parameters", run)
    assert finetune_here(*further, out="further", bert=False)[0] == 0
    assert load_classifier(tmp_path / "further").tokenizer.tokenizer_json == expected.tokenizer_json
    for to in (export.write_huggingface, export.write_gluon):
        folder = tmp_path / to.__name__
        folder.mkdir()
        to(folder, *export.read_model(str(run)))
        found = pretrained.find(str(folder), with_weights=False).tokenizer
        assert found.tokenizer_json == expected.tokenizer_json
        assert found.special_tokens == expected.special_tokens

    (run / "tokenizer.json").write_bytes(files["tokenizer.json"] + b"\n")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged or was edited"):
        load_classifier(run)


ODD = (None, 5, -1, 1 << 70, "x", "", [], {}, [1], [None], {"a": 1}, {"5": {"content": 7}}, True)


def mutations(content, odd, path=()):
    """Yield each copy of a JSON object in which one value is replaced by an odd one."""
    for key, value in content.items():
        if isinstance(value, dict) and key != "vocab":
            for inner in mutations(value, odd, (*path, key)):
                yield content | {key: inner}
        yield content | {key: odd}


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_value_of_another_kind_is_used_or_refused_in_one_sentence(tmp_path, odd):
    said = STOCK | {"do_lower_case": True, "strip_accents": None, "cls_token": "[CLS]"}
    said |= {"added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}}}
    said |= {"additional_special_tokens": ["dog"], "model_input_names": INPUTS, "eos_token": "."}
    said |= {"truncation_side": "right", "tokenize_chinese_chars": True, "user_token": "dog"}
    names = {"mask_token": {"content": "[MASK]", "lstrip": False}, "pad_token": "[PAD]"}
    names["additional_special_tokens"] = ["dog"]
    own = tokenizer_json()
    own["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    own["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    cases = [{"tokenizer_config": content} for content in mutations(said, odd)]
    cases += [{"special_tokens_map": content} for content in mutations(names, odd)]
    cases += [{"added_tokens": {"dog": odd}}, {"added_tokens": odd}]
    cases += [{"tokenizer": t, "tokenizer_config": AS_IS} for t in mutations(own, odd)]
    cases += [{"tokenizer": t, "tokenizer_config": STOCK} for t in mutations(own, odd)]
    for number, files in enumerate(cases):
        folder = write(tmp_path / str(number), **files)
        try:
            assert len(read(folder)) >= len(VOCAB)
        except UserError as error:
            assert "\n" not in str(error)
