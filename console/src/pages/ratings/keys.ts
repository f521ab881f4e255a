import type { Choice } from "./types";

/** What a key does to the pair that is shown. */
export type Action = { kind: "vote"; choice: Choice } | { kind: "undo" };

export interface Pressed {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
  repeat: boolean;
}

const ACTIONS: Record<string, Action> = {
  "1": { kind: "vote", choice: "left" },
  "2": { kind: "vote", choice: "right" },
  "0": { kind: "vote", choice: "tie" },
  u: { kind: "undo" },
  U: { kind: "undo" },
};

/** What a key does; null: nothing. A key that is held down counts once. */
export function actionOf({ key, ctrlKey, metaKey, altKey, repeat }: Pressed): Action | null {
  return ctrlKey || metaKey || altKey || repeat ? null : (ACTIONS[key] ?? null);
}
