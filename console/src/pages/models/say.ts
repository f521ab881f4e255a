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
