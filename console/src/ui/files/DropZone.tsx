import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Button } from "../Button";
import "./drop.css";

export interface DropZoneProps {
  /** Text of the button that opens the browser's file dialog. */
  action: string;
  hint: ComponentChildren;
  onFiles: (files: File[]) => void;
  /** Kinds of files that the browser's dialog offers first. */
  accept?: string;
  many?: boolean;
}

/** Takes files from the browser's file dialog, or dropped onto it. */
export function DropZone({ action, hint, onFiles, accept, many = false }: DropZoneProps) {
  const input = useRef<HTMLInputElement>(null);
  const [over, setOver] = useState(false);
  // A file that is dropped beside the zone would replace the console in this tab.
  useEffect(() => {
    const stay = (event: DragEvent) => event.preventDefault();
    addEventListener("dragover", stay);
    addEventListener("drop", stay);
    return () => {
      removeEventListener("dragover", stay);
      removeEventListener("drop", stay);
    };
  }, []);
  const take = (list: FileList | null | undefined) => {
    const files = [...(list ?? [])];
    if (files.length > 0) onFiles(many ? files : files.slice(0, 1));
  };
  return (
    <div
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        take(event.dataTransfer?.files);
      }}
    >
      <Button icon="upload" onClick={() => input.current?.click()}>
        {action}
      </Button>
      <span class="muted">{hint}</span>
      <input
        ref={input}
        type="file"
        hidden
        multiple={many}
        accept={accept}
        aria-label={action}
        onChange={(event) => {
          take(event.currentTarget.files);
          event.currentTarget.value = "";
        }}
      />
    </div>
  );
}
