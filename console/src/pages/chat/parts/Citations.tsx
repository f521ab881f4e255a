import { count } from "../../../i18n";
import { Dialog } from "../../../ui/Dialog";
import { passageOf } from "../model/answer";
import type { Citation, Message } from "../model/types";
import { say } from "../say";

/** The sources of an answer, below it. */
export function Citations({ citations, onOpen }: { citations: readonly Citation[]; onOpen: (mark: string) => void }) {
  return (
    <div class="citations" role="group" aria-label={say("cite.title")}>
      {citations.map((one) => (
        <button
          key={one.mark}
          type="button"
          class="badge accent citation"
          aria-label={say("cite.open", { mark: one.mark, name: one.filename })}
          onClick={() => onOpen(one.mark)}
        >
          <span class="citation-mark">{one.mark}</span>
          <span class="clip">{one.filename}</span>
        </button>
      ))}
    </div>
  );
}

/** The passage that a mark stands for. */
export function PassageDialog({ message, mark, onClose }: { message: Message; mark: string; onClose: () => void }) {
  const citation = message.citations?.find((one) => one.mark === mark);
  const before = message.content.split(`[${mark}]`, 1)[0] ?? "";
  const sentence = before.slice(-300);
  const passage = citation && passageOf(citation, message.passages ?? [], sentence);
  return (
    <Dialog title={citation?.filename ?? say("cite.title")} onClose={onClose} wide>
      {passage ? (
        <>
          {passage.score !== null && <p class="muted small">{say("cite.score", { score: count(passage.score, 3) })}</p>}
          <div class="passage">{passage.text}</div>
        </>
      ) : (
        <p>{say("cite.gone")}</p>
      )}
    </Dialog>
  );
}
