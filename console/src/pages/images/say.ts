import { texts } from "../../i18n";
import { en } from "./en";
import { zh } from "./zh";

/** Says the texts of this page. */
export const say = texts(en, zh);
