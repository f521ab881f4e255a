import { language, texts } from "../../i18n";
import { en } from "./en";
import { zh } from "./zh";

/** Says a text of the page of models. */
export const say = texts(en, zh);

/** The name of a language by its ISO 639 code; the code where it has none. */
export function languageName(code: string): string {
  try {
    return new Intl.DisplayNames([language.value], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

/** What a model is, in the language of the page: the catalog's words are English, and in Chinese its languages stand for them. */
export function aboutOf(model: { description: string; languages: readonly string[] }): string {
  if (language.value !== "zh" || model.languages.length === 0) return model.description;
  return `支持${model.languages.map(languageName).join("、")}`;
}
