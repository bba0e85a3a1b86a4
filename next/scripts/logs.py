"""logs.py next/logs: the package's training logs (in the working directory's checkout) with the next nano's runs."""
import csv,json,subprocess
import os,sys
F=sys.argv[1]  # next/logs
show=lambda p:[json.loads(l) for l in open(F+'/'+os.path.basename(p))]
N='llasa_lite/nano/'
def table(path): return list(csv.DictReader(open(N+path)))
def write(path,rows,cols):
    with open(N+path,'w',newline='') as f:
        w=csv.DictWriter(f,cols,restval='',lineterminator='\n',extrasaction='ignore'); w.writeheader(); w.writerows(rows)
g=lambda x,d=6: '' if x is None else f'{x:.{d}g}'
rows=[r for r in table('codec/training_log.csv') if int(r['run'])<=6]
for run,l in ((7,'A'),(8,'C'),(9,'D'),(10,'E')):
    for r in show(f'codec/log_{l}.jsonl'): rows.append({'run':run,**{k:r[k] for k in ('step','minutes','reconstruction','codes_in_batch','judges','matching','reading') if k in r},'learning_rate':g(r['learning_rate'])})
write('codec/training_log.csv',rows,['run','step','minutes','reconstruction','codes_in_batch','learning_rate','judges','matching','reading'])
rows=[r for r in table('lm/training_log.csv') if int(r['run'])<=2]
lm=show('lm/log_lm.jsonl'); print({tuple(r) for r in lm})
for r in lm:
    h={k:r[k] for k in r if 'held' in k or 'eval' in k}
    if 'speech' in r or h: rows.append({'run':3,'step':r['step'],'speech':r.get('speech',''),'guide':r.get('guide',''),'learning_rate':g(r.get('learning_rate')),**h})
print(rows[-4:])
write('lm/training_log.csv',rows,['run','step','speech','guide','learning_rate','held_out','held_out_wrong_text'])
rows=[{'run':1,**r} for r in show('lm/log_preferences.jsonl') if 'agreed' in r]
for r in rows: r['learning_rate']=g(r['learning_rate']); r['loss']=g(r['loss'],7)
write('lm/preferences_log.csv',rows,['run','step','loss','agreed','margin','chosen','learning_rate'])
