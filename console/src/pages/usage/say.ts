import { texts } from "../../i18n";
import { en } from "./en";
import { zh } from "./zh";

/** Says a text of the page of usage. */
export const say = texts(en, zh);
