import { useEffect, useId, useRef, useState } from "preact/hooks";
import { percent, t } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Field, TextField } from "../../ui/Field";
import { Brush } from "./brush";
import { say } from "./say";
import type { Edit, Picture } from "./types";
import { placeIn, squareIn } from "./wish";

const STEPS: Record<string, readonly [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** Asks what is to be painted, and where. */
export function Editor({ picture, onClose, onEdit }: { picture: Picture; onClose: () => void; onEdit: (edit: Edit) => void }) {
  const [prompt, setPrompt] = useState(picture.prompt);
  const [strength, setStrength] = useState(0.7);
  const [share, setShare] = useState(0.15); // width of the brush, of the image's shorter side
  const [painted, setPainted] = useState(0);
  const brush = useRef<Brush | null>(null);
  const form = useId();
  const go = async () => {
    const mask = painted > 0 ? ((await brush.current?.mask()) ?? null) : null;
    onEdit({ prompt, mask, strength });
  };
  return (
    <Dialog
      title={say("edit.title")}
      wide
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" disabled={prompt.trim() === ""} onClick={() => void go()}>
            {say("edit.go")}
          </Button>
        </>
      }
    >
      <div class="images-editor">
        <Canvas picture={picture} share={share} brush={brush} onPainted={setPainted} />
        <form
          id={form}
          class="grow"
          onSubmit={(event) => {
            event.preventDefault();
            if (prompt.trim() !== "") void go();
          }}
        >
          <TextField label={say("edit.prompt")} rows={2} value={prompt} onInput={setPrompt} />
          <p class="muted small">{say("edit.hint")}</p>
          <Slider label={say("edit.brush")} low={0.04} high={0.4} value={share} onInput={setShare} />
          {painted > 0 ? (
            <div class="row">
              <span class="small">{say("edit.painted", { part: percent(painted) })}</span>
              <Button
                small
                onClick={() => {
                  brush.current?.clear();
                  setPainted(0);
                }}
              >
                {say("edit.clear")}
              </Button>
            </div>
          ) : (
            <Slider label={say("edit.strength")} low={0.1} high={1} value={strength} onInput={setStrength} />
          )}
        </form>
      </div>
    </Dialog>
  );
}

function Slider(props: { label: string; low: number; high: number; value: number; onInput: (value: number) => void }) {
  return (
    <Field label={`${props.label}: ${percent(props.value)}`}>
      {(wiring) => (
        <input
          {...wiring}
          type="range"
          min={props.low}
          max={props.high}
          step={0.02}
          value={props.value}
          aria-valuetext={percent(props.value)}
          onInput={(event) => props.onInput(Number(event.currentTarget.value))}
        />
      )}
    </Field>
  );
}

interface CanvasProps {
  picture: Picture;
  share: number;
  brush: { current: Brush | null };
  onPainted: (part: number) => void;
}

/** The image, and over it what the brush covers. It is moved by a pointer or by the arrow keys. */
function Canvas({ picture, share, brush, onPainted }: CanvasProps) {
  const element = useRef<HTMLCanvasElement>(null);
  const { side } = squareIn(picture.size);
  const [width, height] = [side, side];
  const [spot, setSpot] = useState({ x: width / 2, y: height / 2 });
  const [down, setDown] = useState(false);
  const [keys, setKeys] = useState(false);
  const size = share * Math.min(width, height);
  useEffect(() => {
    if (element.current) brush.current = new Brush(element.current);
  }, []);
  const stroke = (from: { x: number; y: number }, to: { x: number; y: number }) => {
    brush.current?.line(from, to, size);
    setSpot(to);
  };
  const told = () => onPainted(brush.current?.part() ?? 0);
  const at = (event: PointerEvent) =>
    placeIn({ x: event.clientX, y: event.clientY }, (element.current as Element).getBoundingClientRect(), { width, height });
  const key = (event: KeyboardEvent) => {
    const step = STEPS[event.key];
    if (step || event.key === " ") setKeys(true);
    if (step) {
      event.preventDefault();
      const far = size / 2;
      const to = {
        x: Math.min(width, Math.max(0, spot.x + step[0] * far)),
        y: Math.min(height, Math.max(0, spot.y + step[1] * far)),
      };
      if (down) stroke(spot, to);
      else setSpot(to);
      if (down) told();
    } else if (event.key === " ") {
      event.preventDefault();
      if (!down) stroke(spot, spot);
      setDown(!down);
      told();
    }
  };
  return (
    <div class="images-canvas" >
      <img src={picture.url} alt={picture.prompt} />
      <canvas
        ref={element}
        width={width}
        height={height}
        tabIndex={0}
        role="application"
        aria-label={say("edit.canvas")}
        onKeyDown={key}
        onFocus={() => setKeys(element.current?.matches(":focus-visible") ?? false)}
        onBlur={() => {
          setKeys(false);
          setDown(false);
        }}
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          setKeys(false);
          stroke(at(event), at(event));
        }}
        onPointerMove={(event) => {
          if (event.buttons & 1) stroke(spot, at(event));
        }}
        onPointerUp={told}
      />
      {keys && (
        <span
          class={down ? "images-spot down" : "images-spot"}
          aria-hidden="true"
          style={{
            left: `${(spot.x / width) * 100}%`,
            top: `${(spot.y / height) * 100}%`,
            width: `${(size / width) * 100}%`,
          }}
        />
      )}
      <span class="unseen" role="status">
        {down ? say("edit.down") : ""}
      </span>
    </div>
  );
}
