"""Other guards as workers: Presidio's recognisers of patterns, the YARA rail of NeMo Guardrails, SecureVector Guardian.

Stand-alone on purpose: it runs under interpreters that hold one of them and not Deepwell. Nothing here fetches anything.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Sequence
from typing import Any

from loop import answer_stream, serve

_WARM = 20


class Presidio:
    """The analyser of Presidio with the recognisers that need no model, over a tokenizer without a model."""

    package = "presidio-analyzer"

    def __init__(self) -> None:
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine

        # Its recogniser of addresses of mail would fetch a list of domains, and wait for the network.
        tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
        # Words beside a match raise its score, and are compared by their lemmas: without a model, by the words themselves.
        spacy.Language.component("words_as_lemmas", func=_words_as_lemmas)
        engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
        language = spacy.blank("en")
        language.add_pipe("words_as_lemmas")
        engine.nlp = {"en": language}
        registry = RecognizerRegistry()
        registry.load_predefined_recognizers(languages=["en"])
        registry.recognizers = [one for one in registry.recognizers if not _wants_a_model(one)]
        self.recognisers = sorted(one.name for one in registry.recognizers)
        self._engine = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])

    def spans(self, text: str) -> list[tuple[int, int, float, str]]:
        """Returns start, end, score and kind of each result."""
        found = self._engine.analyze(text, language="en")
        return [(one.start, one.end, float(one.score), one.entity_type) for one in found]


def _words_as_lemmas(document: Any) -> Any:
    for token in document:
        token.lemma_ = token.lower_
    return document


def _wants_a_model(recogniser: Any) -> bool:
    names = {base.__name__ for base in type(recogniser).__mro__}
    return not names & {"PatternRecognizer", "PhoneRecognizer"}


class Nemo:
    """The rail `injection detection` of NeMo Guardrails with all its YARA rules."""

    package = "nemoguardrails"

    def __init__(self) -> None:
        from nemoguardrails import RailsConfig
        from nemoguardrails.library.injection_detection.actions import injection_detection

        self.recognisers = ["code", "sqli", "template", "xss"]
        self._config = RailsConfig.from_content(
            yaml_content="models: []\nrails:\n  config:\n    injection_detection:\n"
            "      injections: [code, sqli, template, xss]\n      action: reject\n"
            "  output:\n    flows: [injection detection]\n"
        )
        self._detect = injection_detection
        self._loop = asyncio.new_event_loop()

    def spans(self, text: str) -> list[tuple[int, int, float, str]]:
        """Returns one span a rule that matches: the whole text."""
        found = self._loop.run_until_complete(self._detect(text, self._config)).metadata
        if not found["is_injection"]:
            return []
        return [(0, len(text), 1.0, name) for name in found["detections"]]


class Guardian:
    """The classifier SecureVector Guardian with its own windows and decoding."""

    package = "securevector-guardian-model"

    def __init__(self) -> None:
        from svguardian import resolve_runtime
        from svguardian.model.pure_infer import PureGuardian
        from svguardian.window import predict_windowed

        self._model = PureGuardian.load(resolve_runtime(download=False))
        self._predict = predict_windowed
        self.recognisers = list(self._model.classes)

    def spans(self, text: str) -> list[tuple[int, int, float, str]]:
        """Returns the whole text if the verdict is malicious."""
        found = self._predict(self._model, text)
        if found["verdict"] != "malicious":
            return []
        return [(0, len(text), float(found["malicious_score"]), str(found["category"]))]


class Worker:
    """One guard, opened by name."""

    def __init__(self) -> None:
        self._guard: Any = None

    def open(self, name: str) -> dict[str, Any]:
        """Makes the guard ready; its version and what it looks for."""
        guards = {"presidio": Presidio, "nemo": Nemo, "guardian": Guardian}
        self._guard = guards[name]()
        version = importlib.metadata.version(self._guard.package)
        return {"version": version, "recognisers": self._guard.recognisers}

    def scan(self, texts: Sequence[str]) -> dict[str, Any]:
        """Returns spans and milliseconds of each text. The first texts are read once before, to warm up."""
        for text in texts[:_WARM]:
            self._guard.spans(text)
        found: list[Any] = []
        ms: list[float] = []
        for text in texts:
            begun = time.perf_counter()
            found.append(self._guard.spans(text))
            ms.append(1e3 * (time.perf_counter() - begun))
        return {"found": found, "ms": ms}

    def personal(self, each: int, seed: int) -> dict[str, Any]:
        """Returns made-up personal data of faker by language and kind."""
        from faker import Faker

        english, british, german, chinese = (Faker(one) for one in ("en_US", "en_GB", "de_DE", "zh_CN"))
        for number, one in enumerate((english, british, german, chinese)):
            one.seed_instance(seed + number)
        makers = {
            "en": {
                "email": english.email,
                "phone": english.phone_number,
                "card": english.credit_card_number,
                "iban": [british.iban, german.iban],
                "ssn": english.ssn,
                "ipv4": english.ipv4,
                "ipv6": english.ipv6,
                "mac": english.mac_address,
                "address": english.street_address,
            },
            "zh": {
                "id": chinese.ssn,
                "phone": chinese.phone_number,
                "card": chinese.credit_card_number,
                "email": chinese.email,
                "ipv4": chinese.ipv4,
                "plate": chinese.license_plate,
                "address": chinese.address,
            },
        }
        return {
            language: {
                kind: [_made(maker, number) for number in range(each)] for kind, maker in kinds.items()
            }
            for language, kinds in makers.items()
        }


def _made(maker: Any, number: int) -> str:
    one = maker[number % len(maker)] if isinstance(maker, list) else maker
    return one().replace("\n", ", ")


if __name__ == "__main__":
    serve(Worker(), answer_stream())
