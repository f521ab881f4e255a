import { useMemo } from "preact/hooks";
import { CopyButton } from "../../../ui/Button";
import { say } from "../say";

/** An answer that is bound by a format: JSON, indented once it is whole. */
export function Structured({ text, live }: { text: string; live: boolean }) {
  const parsed = useMemo(() => (live ? null : indented(text)), [text, live]);
  return (
    <div class="code">
      <div class="code-head">
        <span>json</span>
        {!live && (
          <span class={parsed === null ? "badge bad" : "badge good"}>{say(parsed === null ? "json.invalid" : "json.valid")}</span>
        )}
        <CopyButton text={parsed ?? text} />
      </div>
      <pre tabIndex={0}>
        <code>{parsed ?? text}</code>
      </pre>
    </div>
  );
}

/** JSON with one value a line, or null if it is none. */
export function indented(text: string): string | null {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}
