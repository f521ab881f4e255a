import { percent } from "../i18n";

/** How far something is. Without a total it only says that something goes on. */
export function Progress({ label, done, total, text }: { label: string; done?: number; total?: number; text?: string }) {
  const known = done !== undefined && total !== undefined && total > 0;
  return (
    <div class="progress">
      <progress aria-label={label} value={known ? Math.min(done, total) : undefined} max={known ? total : undefined} />
      <span class="progress-text">{text ?? (known ? percent(done / total) : "")}</span>
    </div>
  );
}
