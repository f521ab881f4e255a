import { bytes, count } from "../../../i18n";
import { Icon } from "../../../ui/Icon";
import { dataUrl, isMedium, isOtherMedium, isPicture, mediumTypeOf, MOST_BYTES, MOST_PARTS, readBase64, sizeOf } from "../model/media";
import type { Attachment } from "../model/types";
import { say } from "../say";

const MOST_TEXT_BYTES = 1_000_000; // of one text file

/** What will go along with the message: pictures small, all else by name, each with a button that removes it. */
export function Enclosed({ files, onRemove }: { files: readonly Attachment[]; onRemove: (file: Attachment) => void }) {
  if (files.length === 0) return null;
  return (
    <ul class="composer-files" aria-label={say("composer.files")}>
      {files.map((file, place) => (
        <li key={place} class="badge">
          {isMedium(file) && (isPicture(file) ? <img src={dataUrl(file)} alt="" /> : <Icon name="listen" size={14} />)}
          <span class="clip">{file.name}</span> {bytes(isMedium(file) ? sizeOf(file) : file.text.length)}
          <button
            type="button"
            class="badge-remove"
            aria-label={say("composer.remove", { name: file.name })}
            onClick={() => onRemove(file)}
          >
            <Icon name="close" size={12} />
          </button>
        </li>
      ))}
    </ul>
  );
}

/** One attachment of a message that was sent. */
export function AttachedView({ file }: { file: Attachment }) {
  if (!isMedium(file)) {
    return (
      <details class="attached">
        <summary>
          {file.name} <span class="muted small">{count(file.text.length)}</span>
        </summary>
        <pre tabIndex={0}>{file.text.slice(0, 20_000)}</pre>
      </details>
    );
  }
  return (
    <figure class="attached medium">
      {isPicture(file) && <img src={dataUrl(file)} alt={say("attached.picture", { name: file.name })} />}
      <figcaption>
        {!isPicture(file) && <Icon name="listen" size={14} />} {file.name} <span class="muted small">{bytes(sizeOf(file))}</span>
      </figcaption>
    </figure>
  );
}

/** Reads a file to attach, or says why it cannot go along. `media` is how many pictures and recordings go along already. */
export async function readAttachment(file: File, media: number): Promise<Attachment | { problem: string }> {
  const { name } = file;
  const type = mediumTypeOf(file);
  const most = type === null ? MOST_TEXT_BYTES : MOST_BYTES;
  if (isOtherMedium(file)) return { problem: say("composer.kind", { name }) };
  if (file.size > most) return { problem: say(type === null ? "composer.big" : "composer.huge", { name, limit: bytes(most) }) };
  if (type !== null && media >= MOST_PARTS) return { problem: say("composer.many", { name, count: MOST_PARTS }) };
  try {
    if (type !== null) {
      const data = await readBase64(file);
      return data === "" ? { problem: say("composer.empty", { name }) } : { name, type, data };
    }
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\0")) return { name, text };
  } catch {
    // No UTF-8: not a text file, or one of an encoding that the model would not read either.
  }
  return { problem: say(type === null ? "composer.binary" : "composer.unread", { name }) };
}
