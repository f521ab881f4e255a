import type { Model } from "../../../api/types";
import type { Language } from "../../../i18n";

/** What the catalog says about the languages of a model. */
export interface Spoken {
  id: string;
  languages: readonly string[];
}

const HAN = /[\u3400-\u9fff]/;

/** Whether a model answers in a language. One that the catalog does not know gets the benefit of the doubt. */
export function knows(model: { id: string; parent?: string }, language: Language, catalog: readonly Spoken[]): boolean {
  const entry = catalog.find((one) => one.id === model.id) ?? catalog.find((one) => one.id === model.parent);
  return entry === undefined || entry.languages.length === 0 || entry.languages.includes(language);
}

/** The language of a conversation: Chinese where the page or the last question is. */
export function languageOf(page: Language, question: string): Language {
  return HAN.test(question) ? "zh" : page;
}

/** Whether the microphone's model is one of Whisper's for English alone, which ends in `.en`. */
export function hearsEnglishAlone(models: readonly Pick<Model, "id" | "kind" | "default">[]): boolean {
  return models.some((one) => one.kind === "recognition" && one.default === true && one.id.endsWith(".en"));
}
