import { Button } from "../../ui/Button";
import { saveAs } from "../../ui/files/save";
import { say } from "./say";
import { remove, vary, wish } from "./studio";
import type { Picture } from "./types";
import { fileName } from "./wish";

/** An image with the text and the seed that draw it again, and what can be done with it. */
export function Card({ picture, busy, onEdit }: { picture: Picture; busy: boolean; onEdit: () => void }) {
  const { kind, prompt, seed, drawn, size } = picture;
  const again = () => (wish.value = { ...wish.peek(), prompt, size, seed: String(seed) });
  return (
    <li class="images-card">
      <img src={picture.url} alt={say(`picture.alt.${kind}`, { prompt })} />
      <p class="images-prompt">
        {kind !== "drawn" && <span class="badge">{say(`kind.${kind}`)}</span>} {prompt}
      </p>
      <p class="muted small">{say("picture.facts", { seed, drawn, size })}</p>
      <div class="row images-actions">
        <Button
          kind="quiet"
          small
          icon="download"
          label={say("picture.download")}
          onClick={() => saveAs(picture.blob, fileName(picture))}
        />
        <Button kind="quiet" small icon="vary" label={say("picture.vary")} disabled={busy} onClick={() => void vary(picture)} />
        <Button kind="quiet" small icon="edit" label={say("picture.edit")} disabled={busy} onClick={onEdit} />
        {kind === "drawn" && <Button kind="quiet" small icon="retry" label={say("picture.again")} onClick={again} />}
        <Button kind="quiet" small icon="trash" label={say("picture.remove")} onClick={() => remove(picture)} />
      </div>
    </li>
  );
}
