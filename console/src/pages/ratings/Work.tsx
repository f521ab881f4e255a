import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../../api/client";
import { count, texts } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { TextField } from "../../ui/Field";
import { Icon } from "../../ui/Icon";
import { Progress } from "../../ui/Progress";
import { toast } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { actionOf } from "./keys";
import { useQueue } from "./queue";
import { raterOf, rememberedRater, rememberRater } from "./rater";
import { type Choice, type Pair, pathOf, type Study } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const CHOICES: { choice: Choice; key: string }[] = [
  { choice: "left", key: "1" },
  { choice: "tie", key: "0" },
  { choice: "right", key: "2" },
];

/** One study: the name of the rater, then one pair after the other. */
export function Work({ id }: { id: string }) {
  const [rater, setRater] = useState(rememberedRater);
  const { data, error, reload } = useLoad((signal) => api<Study>(pathOf(id), { signal }), [id]);
  const start = (name: string) => {
    rememberRater(name);
    setRater(name);
  };
  return (
    <div class="page ratings">
      <div class="page-head">
        <a class="button quiet square" href={hrefOf("ratings")} aria-label={say("back")} title={say("back")}>
          <Icon name="left" />
        </a>
        <h1>{data?.name ?? ""}</h1>
        <a class="button" href={hrefOf("ratings", id, "results")}>
          {say("results")}
        </a>
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && (rater === "" ? <Who onStart={start} /> : <Pairs key={rater} id={id} rater={rater} onOther={() => start("")} />)}
    </div>
  );
}

function Who({ onStart }: { onStart: (name: string) => void }) {
  const [typed, setTyped] = useState("");
  const name = raterOf(typed);
  return (
    <form
      class="ratings-who"
      onSubmit={(event) => {
        event.preventDefault();
        if (name !== "") onStart(name);
      }}
    >
      <p>{say("who.lead")}</p>
      <TextField label={say("who")} hint={say("who.hint")} value={typed} onInput={setTyped} autofocus />
      <Button kind="primary" submit disabled={name === ""}>
        {say("who.start")}
      </Button>
    </form>
  );
}

function Pairs({ id, rater, onOther }: { id: string; rater: string; onOther: () => void }) {
  const { progress, pair, done, error, vote, undo, reload } = useQueue(id, rater);
  const back = () => {
    void undo().then((found) => {
      if (!found) toast(say("undo.none"));
    });
  };
  const press = (event: KeyboardEvent) => {
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    const action = actionOf(event);
    if (action === null) return;
    event.preventDefault();
    if (action.kind === "undo") back();
    else if (pair !== null) vote(action.choice);
  };
  const latest = useRef(press);
  latest.current = press;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => latest.current(event);
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, []);
  return (
    <>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {progress && (
        <Progress
          label={say("progress")}
          done={progress.rated}
          total={progress.pairs}
          text={say("progress.of", { done: count(progress.rated), total: count(progress.pairs) })}
        />
      )}
      <p class="ratings-rater muted small">
        {say("rater", { name: rater })}{" "}
        <Button kind="quiet" small onClick={onOther}>
          {say("rater.other")}
        </Button>
      </p>
      {done && (
        <Empty icon="check" title={say("done.title")} text={say("done.text")}>
          <Button icon="left" onClick={back}>
            {say("undo")}
          </Button>
          <a class="button" href={hrefOf("ratings", id, "results")}>
            {say("results")}
          </a>
        </Empty>
      )}
      {progress && !done && error === null && (
        <>
          <Shown pair={pair} />
          <div class="ratings-choices" role="group" aria-label={say("choices")}>
            {CHOICES.map(({ choice, key }) => (
              <button
                key={choice}
                type="button"
                class="ratings-choice"
                disabled={pair === null}
                onClick={() => vote(choice)}
              >
                <kbd>{key}</kbd> {say(`choice.${choice}`)}
              </button>
            ))}
          </div>
          <div class="row ratings-actions">
            <Button icon="left" onClick={back}>
              {say("undo")} <kbd>u</kbd>
            </Button>
          </div>
        </>
      )}
    </>
  );
}

function typing(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement
  );
}

function Shown({ pair }: { pair: Pair | null }) {
  return (
    <div key={pair?.index} aria-live="polite">
      <div class="ratings-prompt" role="region" aria-label={say("prompt")} tabIndex={0} dir="auto">
        {pair === null ? <span class="muted">{say("choosing")}</span> : pair.prompt}
      </div>
      <div class="ratings-answers">
        {(["left", "right"] as const).map((side) => (
          <section key={side} class="ratings-answer">
            <h2>{say(side)}</h2>
            <div class="ratings-text" role="region" aria-label={say(side)} tabIndex={0} dir="auto">
              {pair?.[side]}
            </div>
          </section>
        ))}
      </div>
    </div>
  );
}
