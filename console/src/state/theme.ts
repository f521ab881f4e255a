import { effect } from "@preact/signals";
import { stored } from "./stored";

export type Theme = "system" | "light" | "dark";

const THEMES: readonly Theme[] = ["system", "light", "dark"];

/** The colours that the user chose; "system" follows the machine. */
export const theme = stored<Theme>("theme", "system", (value) => THEMES.includes(value as Theme));

/** Shows the chosen colours, now and whenever the choice changes. */
export function followTheme(): void {
  effect(() => {
    const root = document.documentElement;
    if (theme.value === "system") delete root.dataset.theme;
    else root.dataset.theme = theme.value;
  });
}
