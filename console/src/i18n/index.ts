import { effect } from "@preact/signals";
import { stored } from "../state/stored";
import { en } from "./en";
import { zh } from "./zh";

export type Language = "en" | "zh";
export type Values = Record<string, string | number>;

const preferred: Language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

/** The language shown; the browser's until the user chooses. */
export const language = stored<Language>("language", preferred, (value) => value === "en" || value === "zh");

effect(() => {
  document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
});

/**
 * Returns the function that says the texts of one page: `say("title")`, with `{name}` replaced from `values`.
 * Both languages have the same keys, which the types hold.
 */
export function texts<T extends Record<string, string>>(
  english: T,
  chinese: { [K in keyof T]: string },
): (key: keyof T, values?: Values) => string {
  return (key, values) => fill((language.value === "zh" ? chinese : english)[key] as string, values);
}

/** Says a text that all pages share. */
export const t = texts(en, zh);

function fill(text: string, values?: Values): string {
  return values ? text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole)) : text;
}

function locale(): string {
  return language.value === "zh" ? "zh-CN" : "en";
}

/** A number with separators: 12,345. */
export function count(value: number, digits = 0): string {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

/** A size in bytes, in powers of 1,000: 98 MB. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${count(value, value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** A part of one as a percentage: 12 %. */
export function percent(part: number): string {
  return `${count(part * 100, part < 0.1 ? 1 : 0)} %`;
}

/** A length of time: 0.4 s, 12 min, 3 h. */
export function duration(seconds: number): string {
  if (seconds < 1) return `${count(seconds * 1000)} ms`;
  if (seconds < 60) return `${count(seconds, 1)} s`;
  const [unit, short] = seconds < 3600 ? [60, "min"] : seconds < 172_800 ? [3600, "h"] : [86_400, "d"];
  return `${count(seconds / unit, 1)} ${short}`;
}

/** A point in time (Unix seconds) as date and time of the place; to the second if `exact`. */
export function time(seconds: number, exact = false): string {
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: exact ? "medium" : "short" }).format(seconds * 1000);
}
