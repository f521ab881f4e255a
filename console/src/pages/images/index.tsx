import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "../../i18n";
import { Button } from "../../ui/Button";
import { Confirm } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Progress } from "../../ui/Progress";
import { Remedy } from "../../ui/remedy/Remedy";
import type { PageProps } from "..";
import { Card } from "./Card";
import { Editor } from "./Editor";
import { Form } from "./Form";
import { say } from "./say";
import { draw, edit, failure, gallery, removeAll, type Work, work } from "./studio";
import type { Picture } from "./types";
import "./style.css";

/** Draws images, and shows those of this session. */
export default function Page(_: PageProps) {
  const [edited, setEdited] = useState<Picture | null>(null);
  const [clearing, setClearing] = useState(false);
  const pictures = gallery.value;
  const now = work.value;
  return (
    <div class="page">
      <h1>{t("nav.images")}</h1>
      <p class="muted images-lead">{say("lead")}</p>
      <div class="images">
        <Form onDraw={(wish) => void draw(wish)} />
        <div class="images-made">
          {failure.value !== null && <Remedy error={failure.value} onClose={() => (failure.value = null)} />}
          {now && <Unfinished work={now} />}
          {pictures.length > 0 ? (
            <section aria-labelledby="images-title">
              <div class="row apart">
                <h2 id="images-title">{say("gallery.title")}</h2>
                <Button kind="quiet" small icon="trash" onClick={() => setClearing(true)}>
                  {say("gallery.clear")}
                </Button>
              </div>
              <p class="muted small">{say("gallery.kept")}</p>
              <ul class="images-gallery">
                {pictures.map((one) => (
                  <Card key={one.id} picture={one} busy={now !== null} onEdit={() => setEdited(one)} />
                ))}
              </ul>
            </section>
          ) : (
            !now && (
              <Empty
                icon="images"
                title={say("empty.title")}
                text={say("empty.text")}
                commands={['deepwell media draw "a red apple" --out apple.png']}
              />
            )
          )}
        </div>
      </div>
      <Announcer newest={pictures[0]} />
      {clearing && (
        <Confirm
          title={say("gallery.clear.title")}
          text={say("gallery.clear.text", { count: pictures.length })}
          action={say("gallery.clear")}
          onYes={removeAll}
          onClose={() => setClearing(false)}
        />
      )}
      {edited && (
        <Editor
          picture={edited}
          onClose={() => setEdited(null)}
          onEdit={(asked) => {
            setEdited(null);
            void edit(edited, asked);
          }}
        />
      )}
    </div>
  );
}

/** The image that is being drawn, as far as it has come. */
function Unfinished({ work }: { work: Work }) {
  const element = useRef<HTMLElement>(null);
  // Where it is narrow, the form fills the screen.
  useEffect(() => element.current?.scrollIntoView({ block: "nearest" }), []);
  return (
    <section ref={element} class="card images-work" aria-labelledby="images-work-title">
      <h2 id="images-work-title">{say("work.title")}</h2>
      <p class="clip">{work.prompt}</p>
      {work.url && <img src={work.url} alt={say("work.alt", { prompt: work.prompt })} />}
      <Progress label={say("work.title")} done={work.done} total={work.total} />
    </section>
  );
}

/** Says to screen readers that an image is finished. */
function Announcer({ newest }: { newest: Picture | undefined }) {
  const [text, setText] = useState("");
  const before = useRef(newest?.id ?? 0);
  useEffect(() => {
    if (newest && newest.id > before.current) {
      before.current = newest.id;
      setText(say("work.done", { prompt: newest.prompt }));
    }
  }, [newest?.id]);
  return (
    <div class="unseen" role="status">
      {text}
    </div>
  );
}
