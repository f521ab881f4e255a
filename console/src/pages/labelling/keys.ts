/** What a key does to the text that is shown. */
export type Action = { kind: "label"; place: number } | { kind: "choose"; step: 1 | -1 } | { kind: "take" | "skip" | "undo" };

export interface Pressed {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
  repeat: boolean;
}

const NAMED: Record<string, Action> = {
  ArrowDown: { kind: "choose", step: 1 },
  ArrowUp: { kind: "choose", step: -1 },
  Enter: { kind: "take" },
  ArrowRight: { kind: "skip" },
  ArrowLeft: { kind: "undo" },
  u: { kind: "undo" },
  U: { kind: "undo" },
};

/** The key of a class, by its place: 1 to 9, then 0; null: it has none. */
export function keyOf(place: number): string | null {
  return place < 10 ? String((place + 1) % 10) : null;
}

/** What a key does where there are so many classes; null: nothing. A key that is held down labels once. */
export function actionOf({ key, ctrlKey, metaKey, altKey, repeat }: Pressed, classes: number): Action | null {
  if (ctrlKey || metaKey || altKey) return null;
  if (/^[0-9]$/.test(key)) {
    const place = (Number(key) + 9) % 10;
    return place < classes && !repeat ? { kind: "label", place } : null;
  }
  const action = NAMED[key] ?? null;
  return repeat && action?.kind !== "choose" ? null : action;
}

/** The names of classes that people typed, one a line or between commas, each once. */
export function classesOf(text: string): string[] {
  const names = text.split(/[\n,，]/).map((name) => name.trim());
  return [...new Set(names.filter((name) => name !== ""))];
}
