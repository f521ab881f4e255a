import { texts } from "../../i18n";
import { en } from "./en";
import { zh } from "./zh";

/** Says a text of this page. */
export const say = texts(en, zh);
