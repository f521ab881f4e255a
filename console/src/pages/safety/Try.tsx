import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { percent, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Command } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { TextField } from "../../ui/Field";
import { en } from "./en";
import type { Moderation } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);

/** A text, and its scores for the categories of harm. */
export function Try() {
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [found, setFound] = useState<Moderation | null>(null);
  const check = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const told = await api<{ results: Moderation[] }>("/v1/moderations", { body: { input: text } });
      setFound(told.results[0] ?? null);
    } catch (failure) {
      setError(failure);
      setFound(null);
    }
    setBusy(false);
  };
  return (
    <>
      <p class="muted">{say("try.lead")}</p>
      <form onSubmit={(event) => void check(event)}>
        <TextField label={say("try.text")} rows={5} value={text} onInput={setText} />
        <Button kind="primary" submit busy={busy} disabled={text.trim() === ""}>
          {say("try.go")}
        </Button>
      </form>
      {error !== null && <Failure error={error} />}
      <div class="safety-tried" aria-live="polite">
        {found && <Scores found={found} />}
      </div>
      <p class="muted small">{say("try.more")}</p>
      <div class="row">
        <Command text='deepwell guard check "TEXT" --policy standard' />
      </div>
    </>
  );
}

function Scores({ found }: { found: Moderation }) {
  const scores = Object.entries(found.category_scores).sort(([, a], [, b]) => b - a);
  return (
    <div class="card">
      <span class={`badge ${found.flagged ? "bad" : "good"}`}>{say(found.flagged ? "try.flagged" : "try.clean")}</span>
      <ul class="safety-scores" aria-label={say("try.scores")}>
        {scores.map(([name, score]) => (
          <li key={name} class={found.categories[name] ? "flagged" : undefined}>
            <code>{name}</code>
            <span class="safety-bar" aria-hidden="true">
              <span style={{ width: `${Math.round(score * 100)}%` }} />
            </span>
            <span class="safety-figure">{percent(score)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}
