import { useEffect, useRef, useState } from "preact/hooks";
import { apiBlob } from "../../api/client";
import { count, percent, texts } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { CheckField } from "../../ui/Field";
import { Icon } from "../../ui/Icon";
import { saveAs } from "../../ui/files/save";
import { toast, toastError } from "../../ui/Toast";
import { en } from "./en";
import { actionOf, keyOf } from "./keys";
import { Amount } from "./Projects";
import { useQueue } from "./queue";
import { type Item, pathOf, type Project } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);

/** One text after the other, labelled with single keys. */
export function Work({ id }: { id: string }) {
  const { project, item, done, error, label, skip, undo, reload } = useQueue(id);
  const [chosen, setChosen] = useState(0);
  const [guessing, setGuessing] = useState(false);
  const classes = project?.classes ?? [];
  useEffect(() => setChosen(0), [item?.index]);
  const back = () => {
    void undo().then((found) => {
      if (found === false) toast(say("undo.none"));
    });
  };
  const press = (event: KeyboardEvent) => {
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    const action = actionOf(event, classes.length);
    // Enter presses the button or the link that has the focus.
    if (action === null || (action.kind === "take" && event.target !== document.body && focusable(event.target))) return;
    event.preventDefault();
    if (action.kind === "undo") back();
    if (item === null) return;
    if (action.kind === "choose") setChosen((chosen + action.step + classes.length) % classes.length);
    if (action.kind === "skip") skip();
    if (action.kind === "label") label(classes[action.place]!.name);
    if (action.kind === "take") label(classes[chosen]!.name);
  };
  const latest = useRef(press);
  latest.current = press;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => latest.current(event);
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, []);
  return (
    <div class="page labelling">
      <div class="page-head">
        <a class="button quiet square" href={hrefOf("labelling")} aria-label={say("back")} title={say("back")}>
          <Icon name="left" />
        </a>
        <h1>{project?.name ?? ""}</h1>
        {project && project.labelled > 0 && <Export project={project} />}
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {project && (
        <>
          <Amount project={project} />
          <Notes project={project} />
        </>
      )}
      {done && (
        <Empty icon="check" title={say("done.title")} text={say("done.text")}>
          <Button icon="retry" onClick={back}>
            {say("undo")}
          </Button>
        </Empty>
      )}
      {project && !done && error === null && (
        <>
          <Shown item={item} />
          <div class="labelling-classes" role="group" aria-label={say("classes")}>
            {classes.map((one, place) => (
              <button
                key={one.name}
                type="button"
                class={place === chosen ? "labelling-class chosen" : "labelling-class"}
                disabled={item === null}
                title={say("labelled", { name: one.name, count: count(one.count) })}
                onClick={() => label(one.name)}
              >
                {keyOf(place) !== null && <kbd>{keyOf(place)}</kbd>}
                <span class="labelling-name">{one.name}</span>
                <span class="muted small">{count(one.count)}</span>
              </button>
            ))}
          </div>
          <div class="row labelling-actions">
            <Button icon="left" onClick={back}>
              {say("undo")}
            </Button>
            <Button disabled={item === null} onClick={skip}>
              {say("skip")}
              <Icon name="right" />
            </Button>
          </div>
          <CheckField label={say("guess")} hint={say("guess.hint")} value={guessing} onChange={setGuessing} />
          {guessing && item && <Guess item={item} />}
          <Keys classes={classes.length} />
        </>
      )}
    </div>
  );
}

function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || isText(target);
}

function isText(target: EventTarget | null): boolean {
  return target instanceof HTMLInputElement && target.type !== "checkbox";
}

function focusable(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.closest("button, a, input, summary") !== null;
}

function Shown({ item }: { item: Item | null }) {
  return (
    <div class="labelling-text" role="region" aria-label={say("text")} aria-live="polite" tabIndex={0} dir="auto" key={item?.index}>
      {item === null ? <span class="muted">{say("choosing")}</span> : item.text}
    </div>
  );
}

function Notes({ project }: { project: Project }) {
  return (
    <>
      {project.skipped > 0 && <p class="muted small">{say("skipped", { count: count(project.skipped) })}</p>}
      {project.unreadable > 0 && <p class="muted small">{say("unreadable", { count: count(project.unreadable) })}</p>}
      {project.stable && (
        <p class="labelling-stable" role="status">
          <span class="badge good">
            <Icon name="check" size={14} />
          </span>
          {say("stable")}
        </p>
      )}
    </>
  );
}

function Guess({ item }: { item: Item }) {
  const text =
    item.suggestion === null || item.probability === null
      ? say("guess.none")
      : say("guess.is", { name: item.suggestion, percent: percent(item.probability) });
  return <p class="labelling-guess">{text}</p>;
}

function Keys({ classes }: { classes: number }) {
  const rows: [string[], string][] = [
    [classes > 1 ? ["1", "…", keyOf(Math.min(classes, 10) - 1)!] : ["1"], say("keys.label")],
    [["↑", "↓"], say("keys.choose")],
    [["Enter"], say("keys.take")],
    [["→"], say("keys.skip")],
    [["←", "u"], say("keys.undo")],
  ];
  return (
    <ul class="labelling-keys" aria-label={say("keys")}>
      {rows.map(([keys, text]) => (
        <li key={text}>
          {keys.map((key) => (key === "…" ? "…" : <kbd key={key}>{key}</kbd>))} {text}
        </li>
      ))}
    </ul>
  );
}

function Export({ project }: { project: Project }) {
  const [busy, setBusy] = useState(false);
  const save = async () => {
    setBusy(true);
    try {
      const name = project.name.replace(/\.(jsonl|ndjson|json)$/i, "");
      saveAs(await apiBlob(pathOf(project.id, "export")), `${name}.labels.jsonl`);
    } catch (failure) {
      toastError(failure);
    }
    setBusy(false);
  };
  return (
    <Button icon="download" busy={busy} onClick={() => void save()}>
      {say("export")}
    </Button>
  );
}
